"""Places: what a person may give where an experiment is to lie.

A place is a local folder, as a path or a `file://` URI, or a folder in a store that a URI names. Whatever looks
like a URI and is not supported is refused: as a path it would silently become a local folder named `s3:`.
"""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from trainable.errors import ConfigError, nearest

Place = Path | str
"""A local folder, absolute or relative, or the URI of a folder in a store."""

SCHEMES: tuple[str, ...] = ()
"""The stores that a place may be in."""

_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/(?P<second>/?)")


def place_of(value: str | Path) -> Place:
    """Return the place that a person gave.

    Raises:
        ConfigError: it is a URI that is not supported.
    """
    text = os.fspath(value)
    match = _URI.match(text)
    if match is None:
        return Path(text)
    scheme = match["scheme"].lower()
    if not match["second"]:
        raise ConfigError(
            f"'{text}' is not a place: a URI has two slashes after the colon. Write {scheme}://… as a string "
            "(a Path loses a slash), or ./ before the name of a local folder."
        )
    if scheme == "file":
        return _local(text)
    if scheme not in SCHEMES:
        allowed = ", ".join(f"{name}://" for name in ("file", *SCHEMES))
        raise ConfigError(
            f"'{text}' cannot be used: {scheme}:// is not supported.{nearest(scheme, SCHEMES)} Give a local "
            f"folder, or a URI that begins with {allowed}."
        )
    return text


def local_folder(value: str | Path, what: str) -> Path:
    """Return a folder that must be local.

    Args:
        value: as a person gave it.
        what: it is, for the message.

    Raises:
        ConfigError: it is a URI of a store.
    """
    text = os.fspath(value)
    if _URI.match(text) is None or text.lower().startswith("file://"):
        return Path(place_of(text))
    raise ConfigError(f"{what} '{value}' must be a local folder. Copy it to a store afterwards.")


def absolute(place: Place) -> Place:
    """Return a place that means the same from any folder."""
    return place.resolve() if isinstance(place, Path) else place


def _local(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise ConfigError(f"'{uri}' names no local folder: write file:///absolute/path, or a path.")
    return Path(unquote(parts.path))
