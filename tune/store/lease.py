"""One process at a time works on an experiment in an object store: a lease with an owner and an expiry.

An object store has no locks, and pyarrow no conditional put. It has what is needed without: a listing holds
every object whose put has returned (S3, Google Cloud Storage, Azure and HDFS all promise that). So each
contender puts a claim of its own and then lists all claims. Whoever sees no other holds the lease. Of two
contenders at the same moment at least the one that lists last sees both, so never do both hold it; of several
that see each other the first by name stays, and the others withdraw.

A claim counts until its object is `LEASE_S` old by the store's own clock, which a contender reads off the
object that it has just put; the clocks of machines do not matter. That of a process which has died on the
contender's own machine does not count. The holder puts its claim anew every `RENEW_S`. A holder that could
not for longer than `LEASE_S`, because the store was gone or its machine slept, may have lost it: it changes
nothing more until it has claimed again and seen no other. What remains is a put that was under way for
longer than the rest of the lease; it may land when another process holds the experiment already.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType

from trainable.errors import ExperimentError, StorageError
from trainable.stores import open_store, read_file

LEASE_S = 90.0
RENEW_S = 15.0
_RENEWAL_PATIENCE_S = 10.0
_POLL_S = 0.5


class Lease:
    """A claim to be the only process that changes an experiment."""

    def __init__(
        self,
        uri: str,
        experiment: str,
        *,
        lease_s: float = LEASE_S,
        renew_s: float = RENEW_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Refer to the claims in a folder.

        Args:
            uri: the folder's.
            experiment: its name, for messages.
            lease_s: how long a claim counts after it was put, in seconds.
            renew_s: how often the holder puts it anew, in seconds.
            clock: seconds that never go back.
            sleep: waits for a number of seconds.
        """
        self._uri = uri
        self._experiment = experiment
        self._lease_s, self._renew_s = lease_s, renew_s
        self._clock, self._sleep = clock, sleep
        self._files, self._folder = open_store(uri)
        self._impatient, _ = open_store(uri, patience_s=_RENEWAL_PATIENCE_S)
        self._name = uuid.uuid4().hex
        self._since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._held_until = -1.0
        self._guard = threading.Lock()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lease inside the `with` block.

        Raises:
            ExperimentError: another process holds it; the message says which.
            StorageError: the store cannot be used.
        """
        self._acquire()
        ended = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(ended,), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            ended.set()
            renewing.join()
            with contextlib.suppress(OSError):
                self._impatient.delete_file(self._path(self._name))

    def check(self) -> None:
        """Make sure that the lease is held, claiming it again if it may have ended meanwhile.

        Raises:
            StorageError: another process has taken the experiment over, or the store cannot be used.
        """
        if self._clock() < self._held_until:
            return
        with self._guard:
            if self._clock() < self._held_until:
                return
            now = self._put(self._files, "held")
            # Who is still waiting has not seen this claim and takes over, or sees it and withdraws.
            while others := self._others(self._files, now):
                if not any(claim["state"] == "held" for claim in others):
                    self._sleep(_POLL_S)
                    continue
                self._withdraw()
                raise StorageError(
                    f"experiment '{self._experiment}' was taken over by {_who(others[0])} while its store "
                    "could not be reached from here. This process writes nothing more; let the other work."
                )

    def is_held(self) -> bool:
        """Return whether a process holds the lease, as far as this machine's clock can tell."""
        return any(claim["state"] == "held" for claim in self._others(self._files, time.time(), clears=False))

    def _acquire(self) -> None:
        now = self._put(self._files, "waiting")
        while others := self._others(self._files, now):
            holder = next((claim for claim in others if claim["state"] == "held"), None)
            first = min(others, key=lambda claim: str(claim["name"]))
            if holder is not None or first["name"] < self._name:
                self._withdraw()
                raise ExperimentError(
                    f"experiment '{self._experiment}' is being worked on by {_who(holder or first)}. Wait "
                    "for it to end, or stop it, and try again; if its machine is gone, in "
                    f"{self._lease_s:.0f} seconds."
                )
            self._sleep(_POLL_S)
            now = self._put(self._files, "waiting")
        self._put(self._files, "held")

    def _withdraw(self) -> None:
        self._held_until = -1.0
        with contextlib.suppress(FileNotFoundError):
            self._files.delete_file(self._path(self._name))

    def _renew(self, ended: threading.Event) -> None:
        while not ended.wait(self._renew_s):
            with self._guard:
                # What may have been taken over is not put anew here: the next change claims it first.
                if self._clock() < self._held_until:
                    with contextlib.suppress(OSError):
                        self._put(self._impatient, "held")

    def _put(self, files: FileSystem, state: str) -> float:
        """Put the claim; returns the store's time."""
        began = self._clock()
        claim = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process": _identity(os.getpid()),
            "since": self._since,
            "state": state,
        }
        with files.open_output_stream(self._path(self._name)) as out:
            out.write(json.dumps(claim).encode())
        now = _time_of(files.get_file_info(self._path(self._name)))
        self._held_until = began + self._lease_s
        return now

    def _others(self, files: FileSystem, now: float, *, clears: bool = True) -> list[dict[str, Any]]:
        """Return the claims of others that count; those that ended long ago are cleared away."""
        found = []
        for info in files.get_file_info(FileSelector(self._folder, allow_not_found=True)):
            name = info.path.rpartition("/")[2]
            if info.type != FileType.File or name == self._name:
                continue
            with contextlib.suppress(FileNotFoundError):
                claim = json.loads(read_file(files, info.path))
                # The store may give whole seconds.
                if now - _time_of(info) <= self._lease_s + 1 and not _died_here(claim):
                    found.append({**claim, "name": name})
                elif clears:
                    files.delete_file(info.path)
        return found

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"


def _identity(pid: int) -> str | None:
    """Return what no other process ever has: boot, namespace, number, start; `None` if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
        # The name, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, start = fields[0], fields[19]
    return f"{boot} {namespace} {pid} {'died' if state in 'ZX' else start}"


def _died_here(claim: dict[str, Any]) -> bool:
    """Return whether a claim's process was one of this machine and this process namespace, and has died."""
    process, own = claim.get("process"), _identity(os.getpid())
    if process is None or own is None or process.split()[:2] != own.split()[:2]:
        return False
    return bool(_identity(claim["pid"]) != process)


def _time_of(info: FileInfo) -> float:
    return float(info.mtime_ns or 0) / 1e9


def _who(claim: dict[str, Any]) -> str:
    return f"process {claim['pid']} on {claim['host']} since {claim['since']}"
