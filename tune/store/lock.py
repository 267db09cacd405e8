"""One process at a time works on an experiment.

The lock is the kernel's, on a file in the experiment's folder: it ends with the process that holds it,
however that ends, so that a lock is never stale. What the file says is for people.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from trainable.errors import ExperimentError

LOCK_NAME = "lock.json"


@contextlib.contextmanager
def locked(experiment: Path) -> Iterator[None]:
    """Hold the experiment inside the `with` block.

    Raises:
        ExperimentError: another process holds it; the message says which.
    """
    with (experiment / LOCK_NAME).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ExperimentError(
                f"experiment '{experiment.name}' is being worked on by {_holder(experiment)}. "
                "Wait for it to end, or stop it, and try again."
            ) from None
        file.truncate(0)
        told = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        file.write(json.dumps(told))
        file.flush()
        yield


def is_locked(experiment: Path) -> bool:
    """Return whether a process works on the experiment."""
    try:
        with (experiment / LOCK_NAME).open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _holder(experiment: Path) -> str:
    try:
        told = json.loads((experiment / LOCK_NAME).read_text(encoding="utf-8"))
        return f"process {told['pid']} on {told['host']} since {told['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"
