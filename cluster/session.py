"""One connection to Ray, for as long as a search lasts: a Ray of its own, or the cluster this machine is in.

What Ray logs, in Python's loggers, in warnings or from its native code on file descriptor 2, goes to
`ray.log`, so that the terminal belongs to the search. A Ray that was started here is stopped on the way out;
a cluster that was there before is only left. A Ray that cannot be started or reached is a `ClusterError` that
says what to do.
"""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import ray
from ray.exceptions import AuthenticationError

from trainable.errors import ClusterError

LOG_NAME = "ray.log"
"""The file in the log folder that takes what Ray says."""

_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # The new output engine prints tables even when it is told to be silent.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Its default changes in a later Ray, and Ray warns of it.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # No CSV, JSON and TensorBoard copies of the result log.
}
"""Ray's settings for a search. One that the user has set stays as it is."""

_TOKEN_ADVICE = (
    "Put the cluster's token in the variable RAY_AUTH_TOKEN or in the file ~/.ray/auth_token "
    "(RAY_AUTH_TOKEN_PATH names another) and set RAY_AUTH_MODE=token; "
    "`ray get-auth-token` on the head node prints it."
)


@contextlib.contextmanager
def session(
    cluster_address: str,
    *,
    num_cpus: int | None,
    num_gpus: int | None,
    log_dir: Path,
    captures_stderr: bool = True,
) -> Iterator[None]:
    """Be connected to Ray inside the `with` block.

    A Ray that this process is connected to already is used as it is, and kept.

    Args:
        cluster_address: `local` starts a Ray of its own; `auto` attaches to the cluster that this machine
            belongs to, or that `RAY_ADDRESS` names.
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
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    with _loggers_to(log), descriptor_2:
        if ray.is_initialized():
            yield
            return
        if cluster_address == "local":
            _start(num_cpus, num_gpus, log)
        else:
            _attach(cluster_address, log)
        try:
            yield
        finally:
            ray.shutdown()


def _start(num_cpus: int | None, num_gpus: int | None, log: Path) -> None:
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.INFO,
        )
    except (OSError, RuntimeError, ValueError, AuthenticationError) as error:
        raise ClusterError(
            f"Ray could not be started on this machine (cluster.num_cpus {num_cpus}, "
            f"cluster.num_gpus {num_gpus}): {_gist(error)}. Ray's own words are in {log}."
        ) from error


def _attach(address: str, log: Path) -> None:
    named = f"cluster.address '{address}'"
    if os.environ.get("RAY_ADDRESS"):
        named += f" (RAY_ADDRESS {os.environ['RAY_ADDRESS']})"
    log_start = log.stat().st_size
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.INFO)
    except AuthenticationError as error:
        raise ClusterError(f"{named}: the token is missing or wrong. {_TOKEN_ADVICE}") from error
    except (OSError, RuntimeError, ValueError) as error:
        # A refused token reaches Python as a plain lost connection; only the native log tells them apart.
        if b"InvalidAuthToken" in log.read_bytes()[log_start:]:
            raise ClusterError(f"{named}: the cluster refused the token. {_TOKEN_ADVICE}") from error
        raise ClusterError(
            f"{named}: no Ray cluster answers here: {_gist(error)}. Start one with "
            "`ray start --head`, or let the search start its own with --cluster.address local."
        ) from error


def _gist(error: BaseException) -> str:
    """Return the first sentence of Ray's message: the rest names flags of Ray's own command."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(". ")[0].rstrip(".")


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
