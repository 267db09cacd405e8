"""Faults of single requests, drawn from a seed, for the tests' W&B server."""

import random
import re
import threading
from collections import Counter

FAULTS = ("500", "404", "409", "429", "hang", "refuse", "slow", "lose")
"""Error statuses; no answer, then a cut connection; a cut connection; a late answer; an answer that is lost
although the request was carried out."""


class Chaos:
    """Decides which requests fail, and how.

    Attributes:
        hold_s: how long a request hangs, or how late its answer is.
        struck: how often each kind of request had each fault.
    """

    def __init__(self, seed: int, share: float, hold_s: float = 1.5) -> None:
        """Let a `share` of the requests of each kind fail."""
        self.hold_s = hold_s
        self.struck: Counter[tuple[str, str]] = Counter()
        self._random = random.Random(seed)
        self._share = share
        self._lock = threading.Lock()

    def draw(self, path: str, body: bytes) -> str:
        """Return the fault of a request, one of `FAULTS`; an empty text if it succeeds."""
        with self._lock:
            if path.startswith("/sdk/otel/") or self._random.random() >= self._share:
                return ""
            fault = self._random.choice(FAULTS)
            self.struck[kind_of(path, body), fault] += 1
            return fault


def kind_of(path: str, body: bytes) -> str:
    """Return the kind of a request: the name of a GraphQL operation, `file_stream`, or what is uploaded."""
    if path == "/graphql":
        named = re.search(rb"\b(?:query|mutation)\s+(\w+)", body)
        return named[1].decode() if named else "graphql"
    return "file_stream" if path.endswith("/file_stream") else "/".join(path.split("/")[1:3])
