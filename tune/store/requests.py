"""What a person asks of a search from another terminal: one small file for each request, in its folder.

The command writes the file; the process that runs the search reads it, does what it says, and deletes it.
"""

import json
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tune.store.storage import Storage

_FOLDER = "requests"


class Verb(StrEnum):
    """What is asked for."""

    ENQUEUE = "enqueue"
    STOP = "stop"
    PAUSE = "pause"


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        verb: what is asked for.
        values: of `enqueue`: the point, by dotted key; of `stop`: the trial's id under `trial_id`.
        name: of its file.
    """

    verb: Verb
    values: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""


class Requests:
    """The requests of one experiment that nobody has carried out yet."""

    def __init__(self, storage: Storage) -> None:
        """Keep them in `storage`."""
        self._storage = storage

    def post(self, verb: Verb, values: Mapping[str, Any] | None = None) -> None:
        """Leave a request."""
        name = f"{_FOLDER}/{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
        self._storage.write(name, json.dumps({"verb": verb.value, "values": dict(values or {})}).encode())

    def pending(self) -> list[Request]:
        """Return the requests in the order in which they were made; a file that is none is skipped."""
        found = []
        for name in self._storage.names(f"{_FOLDER}/*.json"):
            with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
                content = json.loads(self._storage.read(name))
                found.append(Request(Verb(content["verb"]), dict(content["values"]), name))
        return found

    def done(self, request: Request) -> None:
        """Remove a request that was carried out, or that has no meaning any more."""
        self._storage.delete(request.name)
