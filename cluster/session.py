"""One connection to Ray, for as long as a search lasts: a Ray of its own, or the cluster this machine is in.

What Ray logs, in Python's loggers, in warnings or from its native code on file descriptor 2, goes to
`ray.log`, so that the terminal belongs to the search. A Ray that was started here is stopped on the way out;
a cluster that was there before is only left. A Ray that cannot be started or reached is a `ClusterError` that
says what to do.
"""

import contextlib
import logging
import os
import secrets
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray._private import worker

from cluster.address import OWN, Target, try_out
from trainable.errors import ClusterError

LOG_NAME = "ray.log"
"""The file in the log folder that takes what Ray says."""

_LONGEST_TEMPORARY_FOLDER = 107 - 66
_TAIL_LINES = 5

_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # The new output engine prints tables even when it is told to be silent.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Its default changes in a later Ray, and Ray warns of it.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # No CSV, JSON and TensorBoard copies of the result log.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # A trial that diverged has no objective to report.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ray's own ends a search without saving its trials.
}
"""Ray's settings for a search. One that the user has set stays as it is."""


@contextlib.contextmanager
def trials_start_together(count: int) -> Iterator[None]:
    """Have Ray Tune start up to `count` trials at once inside the `with` block, not one after the other."""
    with _environment({"TUNE_MAX_PENDING_TRIALS_PG": str(count)}):
        yield


@contextlib.contextmanager
def _environment(variables: Mapping[str, str], *, override: bool = True) -> Iterator[None]:
    """Set environment variables inside the `with` block, and restore what was there before.

    Args:
        variables: by name.
        override: replace a value that is set already; else the user's value stays.
    """
    before = {name: os.environ.get(name) for name in variables}
    for name, value in variables.items():
        if override or before[name] is None:
            os.environ[name] = value
    try:
        yield
    finally:
        for name, earlier in before.items():
            if earlier is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = earlier


@contextlib.contextmanager
def session(
    target: Target,
    *,
    num_cpus: int | None,
    num_gpus: int | None,
    log_dir: Path,
    captures_stderr: bool = True,
) -> Iterator[None]:
    """Be connected to Ray inside the `with` block.

    A Ray that this process is connected to already is used as it is, and kept.

    Args:
        target: a cluster to join, or a Ray of its own to start.
        num_cpus: CPUs of a local Ray; `None`: all.
        num_gpus: GPUs of a local Ray; `None`: all.
        log_dir: the folder that `ray.log` is written to; made if it is not there.
        captures_stderr: send file descriptor 2, which is the whole process's, to the log as well.

    Raises:
        ClusterError: Ray cannot be started or reached, or refuses the token.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    log = log_dir / LOG_NAME
    descriptor_2 = _descriptor_2_to(log) if captures_stderr else contextlib.nullcontext()
    settings = _SETTINGS | (_own_token() if target.is_own else {})
    with _environment(settings, override=False), _loggers_to(log), _notices_to(log), descriptor_2:
        if ray.is_initialized():
            yield
            return
        if target.is_own:
            _start(num_cpus, num_gpus, log)
        else:
            _attach(target)
        try:
            yield
        finally:
            ray.shutdown()


def _start(num_cpus: int | None, num_gpus: int | None, log: Path) -> None:
    try:
        ray.init(
            address=OWN,
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.INFO,
            _temp_dir=_short_temporary_folder(),
        )
    # Ray reports its own time-outs as a bare Exception.
    except Exception as error:
        raise ClusterError(
            f"Ray could not be started on this machine (cluster.num_cpus {num_cpus}, "
            f"cluster.num_gpus {num_gpus}): {_gist(error)}. Free CPU, memory or disk in "
            f"{tempfile.gettempdir()}, or name a running cluster: --cluster.address HOST:6379.{_tail(log)}"
        ) from error


def _own_token() -> dict[str, str]:
    """Return a token for a Ray of its own where Ray could not keep one in the home folder."""
    home = Path(os.path.expanduser("~"))
    folder = home / ".ray" if (home / ".ray").exists() else home
    return {} if os.access(folder, os.W_OK) else {"RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _short_temporary_folder() -> str | None:
    """Return a folder for Ray's sockets if the default one is too deep for them; else `None`.

    A Unix socket's path has at most 107 characters, of which Ray's own part takes 66.

    Raises:
        ClusterError: no folder is short enough.
    """
    if "RAY_TMPDIR" in os.environ or len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_TEMPORARY_FOLDER:
        return None
    for folder in ("/tmp", "/var/tmp", "/dev/shm"):
        if os.access(folder, os.W_OK):
            return os.path.join(folder, f"ray-{os.getuid()}")
    raise ClusterError(
        f"TMPDIR '{tempfile.gettempdir()}' is too long for Ray's sockets, and /tmp cannot be written to. "
        f"Set TMPDIR to a folder whose path has at most {_LONGEST_TEMPORARY_FOLDER} characters."
    )


def _tail(log: Path) -> str:
    """Return the last lines of Ray's log, because the folder that it is in may be removed."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return "".join(f"\n  {line[:200]}" for line in lines[-_TAIL_LINES:])


def _attach(target: Target) -> None:
    try_out(target)
    try:
        ray.init(address=target.address, log_to_driver=False, logging_level=logging.INFO)
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"{target.named_by} '{target.address}': the cluster was lost while it was being joined: "
            f"{_gist(error)}. Try again; `ray status` shows whether it is well."
        ) from error


def _gist(error: BaseException) -> str:
    """Return the first sentence of Ray's message: the rest names flags of Ray's own command."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(". ")[0].rstrip(".")


@contextlib.contextmanager
def _notices_to(log: Path) -> Iterator[None]:
    """Send to the file what the cluster's daemons report, which Ray prints whatever it is told."""

    def write(data: Mapping[str, Any], ignore_prefix: bool) -> None:
        del ignore_prefix
        with log.open("a", encoding="utf-8", errors="replace") as file:
            file.writelines(f"({data['pid']}) {line}\n" for line in data["lines"])

    before = worker.print_to_stdstream
    worker.print_to_stdstream = write
    try:
        yield
    finally:
        worker.print_to_stdstream = before


@contextlib.contextmanager
def _loggers_to(log: Path) -> Iterator[None]:
    """Send Ray's Python loggers, and Python's warnings, to the file alone."""
    handler = logging.FileHandler(log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger("ray"), logging.getLogger("py.warnings")]
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    captured_before = warnings.showwarning.__module__ == "logging"
    logging.captureWarnings(True)
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        logging.captureWarnings(captured_before)
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()


@contextlib.contextmanager
def _descriptor_2_to(log: Path) -> Iterator[None]:
    """Send what native code writes to file descriptor 2 to the file; `sys.stderr` keeps the terminal."""
    sys.stderr.flush()
    python_stderr = sys.stderr
    descriptor = os.dup(2)
    terminal = os.fdopen(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    with terminal, log.open("ab") as sink:
        # Where a program or a test has put something else in place of stderr, that stays.
        if _writes_to_descriptor_2(python_stderr):
            sys.stderr = terminal
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(descriptor, 2)
            sys.stderr = python_stderr


def _writes_to_descriptor_2(stream: object) -> bool:
    try:
        return stream.fileno() == 2  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return False
