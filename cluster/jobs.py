"""Searches as Ray jobs: sent to a cluster, where they run on when the machine that sent them goes away.

A job takes loratune's own code with it, so that every node runs the same, and a configuration in which all is
resolved. It takes no data, no checkpoint and no key: these are on the cluster, or where it can reach them.
"""

import contextlib
import logging
import os
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.address import TOKEN_ADVICE, send_token
from trainable.errors import ClusterError, ConfigError, nearest

_CODE = ("tune", "trainable", "search_spaces", "cluster", "loratune.py")
_ROOT = Path(__file__).parents[1]
_KNOCK_S = 5.0
_POLL_S = 1.0
_GRACE_S = 60
"""How long a job that is stopped may take to save its trials, before Ray kills it."""
_JOB_ENVIRONMENT = {"RAY_JOB_STOP_WAIT_TIME_S": str(_GRACE_S), "PYTHONUNBUFFERED": "1"}
_TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")
"""Loggers of Ray's client that set their own level when they are imported."""
_ENDED = ("STOPPED", "SUCCEEDED", "FAILED")


@dataclass(frozen=True)
class Job:
    """One job of loratune's.

    Attributes:
        job_id: Ray's id of it.
        status: Ray's word: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        command: what it runs.
        started: Unix time in seconds; `None` before it started.
        message: Ray's explanation of the status.
    """

    job_id: str
    status: str
    command: str
    started: float | None
    message: str

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more."""
        return self.status in _ENDED


class Jobs:
    """The jobs of one cluster, behind its dashboard's address."""

    def __init__(self, address: str) -> None:
        """Connect.

        Args:
            address: `http://HOST:8265`, as `ray start --head` prints it.

        Raises:
            ClusterError: nothing answers there, or Ray's job client is not installed.
        """
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClusterError(
                f"--address '{address}' is not a dashboard's address. Give http://HOST:8265, where HOST is "
                "the cluster's head."
            )
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname, port), timeout=_KNOCK_S).close()
        except OSError as error:
            raise ClusterError(
                f"--address '{address}': nothing answers there ({error.strerror or error}). The dashboard is "
                "on port 8265 of the head by default, and often has to be forwarded: "
                "ssh -L 8265:localhost:8265 HEAD, or kubectl port-forward service/HEAD 8265."
            ) from None
        self._address = address
        try:
            from ray.job_submission import JobSubmissionClient

            with self._translated():
                self._client: Any = self._connected(lambda: JobSubmissionClient(address))
            for name in _TALKATIVE:
                logging.getLogger(name).setLevel(logging.WARNING)
        # Ray's client asks for its extra packages when it is made.
        except (ImportError, ModuleNotFoundError) as error:
            raise ClusterError(
                f"sending jobs needs Ray's job client ({error}). Install it: pip install 'loratune[cluster]'."
            ) from None

    @staticmethod
    def _connected(connect: Callable[[], Any]) -> Any:
        """Make the client; it sends the user's token to a cluster that asks for one."""
        from ray.exceptions import AuthenticationError

        try:
            return connect()
        except AuthenticationError:
            if not send_token():
                raise
            return connect()

    def submit(self, words: Sequence[str], files: Mapping[str, str], ship: Sequence[Path] = ()) -> str:
        """Start a job; returns its id.

        Args:
            words: the words after `loratune`.
            files: more files of its folder, each name with its text.
            ship: the caller's own modules, files or folders, to lie in its folder too.

        Raises:
            ConfigError: something to ship does not exist.
            ClusterError: the cluster refuses the job.
        """
        entry = ["python", "-c", "from tune.cli import main; main()", *words]
        until = time.monotonic() + _GRACE_S
        with _folder(files, ship) as folder:
            while True:
                try:
                    with self._translated():
                        return self._client.submit_job(
                            entrypoint=shlex.join(entry),
                            metadata={"loratune": shlex.join(words)},
                            runtime_env={"working_dir": str(folder), "env_vars": _JOB_ENVIRONMENT},
                        )
                except ClusterError as error:
                    # A cluster that has just been started takes no jobs yet.
                    if "No available agent" not in str(error) or time.monotonic() > until:
                        raise
                    time.sleep(_POLL_S)

    def listed(self) -> list[Job]:
        """Return loratune's jobs, oldest first.

        Raises:
            ClusterError: the cluster does not answer.
        """
        with self._translated():
            found = [_job(one) for one in self._client.list_jobs() if "loratune" in (one.metadata or {})]
        return sorted(found, key=lambda job: job.started or 0.0)

    def job(self, job_id: str) -> Job:
        """Return one job.

        Raises:
            ClusterError: there is none with this id, or the cluster does not answer.
        """
        known = {job.job_id: job for job in self.listed()}
        if job_id not in known:
            raise ClusterError(
                f"there is no job '{job_id}' of loratune's at {self._address}.{nearest(job_id, known)} "
                f"`loratune jobs list --address {self._address}` lists them."
            )
        return known[job_id]

    def logs(self, job_id: str) -> str:
        """Return what a job has printed so far.

        Raises:
            ClusterError: as in `job`.
        """
        self.job(job_id)
        with self._translated():
            return self._client.get_job_logs(job_id)

    def stop(self, job_id: str) -> bool:
        """Have a job save its trials and end; returns whether it still ran.

        Raises:
            ClusterError: as in `job`.
        """
        self.job(job_id)
        with self._translated():
            return self._client.stop_job(job_id)

    def follow(self, job_id: str, write: Callable[[str], None]) -> Job:
        """Hand on what a job prints until it ends; a connection that breaks for a while is tried again.

        Raises:
            ClusterError: there is no such job, or the cluster has not answered for a minute.
        """
        shown, lost_at = 0, None
        while True:
            try:
                job = self.job(job_id)
                text = self.logs(job_id)
                lost_at = None
            except ClusterError:
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > _GRACE_S:
                    raise
                time.sleep(_POLL_S)
                continue
            write(text[shown:])
            shown = len(text)
            if job.has_ended:
                return job
            time.sleep(_POLL_S)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what Ray's client raises into one line."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise ClusterError(
                f"the cluster at {self._address}: the token is missing or wrong. {TOKEN_ADVICE}"
            ) from None
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise ClusterError(f"the cluster at {self._address} does not do it: {_line(error)}") from None


def _job(details: Any) -> Job:
    return Job(
        job_id=details.submission_id or details.job_id,
        status=str(getattr(details.status, "value", details.status)),
        command=f"loratune {details.metadata['loratune']}",
        started=details.start_time / 1000 if details.start_time else None,
        # Ray repeats the output in it, which is printed already.
        message=(details.message or "").partition(", last available logs")[0],
    )


@contextlib.contextmanager
def _folder(files: Mapping[str, str], ship: Sequence[Path]) -> Iterator[Path]:
    """Make a folder with the code, the files and what the caller ships; it is gone after the block."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in [*(_ROOT / code for code in _CODE), *ship]:
            _copy(part, folder)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
        yield folder


def _copy(part: Path, folder: Path) -> None:
    target = folder / part.name
    if target.exists():
        raise ConfigError(f"--ship {part}: the job has another '{part.name}' already. Rename yours.")
    if part.is_dir():
        shutil.copytree(part, target, ignore=shutil.ignore_patterns("__pycache__", ".*", "*.safetensors"))
    elif part.is_file():
        shutil.copy(part, target)
    else:
        raise ConfigError(f"--ship {part} does not exist. Give a module, a file or a folder.")


def _line(error: BaseException) -> str:
    """Return the first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".") + "."


def check_results_dir(results_dir: str | os.PathLike[str]) -> None:
    """Check that results that a job writes can be found again.

    Raises:
        ConfigError: the folder is relative: a job's own folder goes away with it.
    """
    text = os.fspath(results_dir)
    if "://" not in text and not Path(text).is_absolute():
        raise ConfigError(
            f"search.results_dir '{text}' is relative, and a Ray job's own folder goes away with it. Give an "
            "absolute folder that all nodes share, or a URI: --results_dir s3://bucket/results."
        )
