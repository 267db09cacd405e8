"""Compares what a terminal shows with a committed text file, character by character."""

import os
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "golden" / "terminal"
_WRITE = "WRITE_SNAPSHOTS"


def assert_shown(name: str, text: str) -> None:
    """Compare a text with the file of this name; with `WRITE_SNAPSHOTS=1` the file is written instead.

    Spaces at the ends of lines, which nobody sees, are not compared.
    """
    file = _FOLDER / f"{name}.txt"
    shown = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    if os.environ.get(_WRITE):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(shown, encoding="utf-8")
    assert shown == snapshot(name), f"look at it, then {_WRITE}=1 accepts it"


def snapshot(name: str) -> str:
    """Return the committed text of this name."""
    return (_FOLDER / f"{name}.txt").read_text(encoding="utf-8")
