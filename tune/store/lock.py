"""One process at a time works on an experiment.

The lock is the kernel's, on a file in the experiment's folder. It ends with the process that holds it,
however that ends, so it is never stale. The file's content is for people.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from trainable.errors import ExperimentError


@contextlib.contextmanager
def locked(path: Path, experiment: str) -> Iterator[None]:
    """Hold the lock inside the `with` block.

    Args:
        path: the lock's file.
        experiment: its name, for the message.

    Raises:
        ExperimentError: another process holds it, or the file system has no locks.
    """
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise ExperimentError(
            f"experiment '{experiment}' cannot be written to: {error.strerror} ({path}). "
            "Make its folder writable, or copy the experiment to one that is."
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise ExperimentError(
                    f"experiment '{experiment}' lies on a file system without file locks ({error.strerror}). "
                    "Give a folder on another file system with --results_dir."
                ) from None
            raise ExperimentError(
                f"experiment '{experiment}' is being worked on by {_holder(path)}. "
                "Wait for it to end, or stop it, and try again."
            ) from None
        file.truncate(0)
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        file.write(json.dumps(holder))
        file.flush()
        yield


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock."""
    try:
        with path.open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    return False


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"
