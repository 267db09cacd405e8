"""The console that commands print to. Nothing that prints can end a search.

A reader that goes away (`| head`, a closed terminal) silences the output and nothing else; characters that
the terminal cannot show are replaced; text from outside is never taken for markup, nor for the control
sequences that move a terminal's cursor or change its title.
"""

import contextlib
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from trainable.errors import ConfigError
from trainable.files import write_atomically

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""The control characters besides tab and newline."""


class _ForgivingStream(io.TextIOBase):
    """Standard output, silent from the first write that fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The terminal's encoding, which decides what lines are drawn with."""
        return self._stream.encoding

    def write(self, text: str) -> int:
        """Write, or go silent."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush, or go silent."""
        self._try(self._stream.flush)

    def isatty(self) -> bool:
        """Return whether a person is looking."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the stream's descriptor."""
        return self._stream.fileno()

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (OSError, ValueError):
            silence(self._stream)


class _Console(Console):
    """A console whose own control sequences alone reach the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the parts of what is printed, without the control characters of texts."""
        for segment in super().render(renderable, options):
            has_some = not segment.control and _CONTROL.search(segment.text)
            yield Segment(printable(segment.text), segment.style) if has_some else segment


def printable(text: str) -> str:
    """Return a text in which each control character but tab and newline is replaced."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def console() -> Console:
    """Return a console on standard output."""
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return _Console(file=_ForgivingStream(stream), markup=False, highlight=False, emoji=False)  # type: ignore[arg-type]


def write_output(path: Path, content: bytes) -> None:
    """Write a file that a person named, atomically.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ConfigError(f"'{path}' cannot be written: {error.strerror}. Name another file.") from None


def silence(stream: TextIO) -> None:
    """Send what is still written to a broken stream nowhere, so that the interpreter's exit is quiet too."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
