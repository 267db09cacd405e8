"""Places: what a person may give where an experiment is to lie.

A place is a local folder, as a path or a `file://` URI, or a folder in a store that a URI names. What looks
like a URI and is not supported is refused: as a path it would become a local folder named `s3:`.

    s3://bucket/path            Amazon S3 and what speaks its protocol; another server than Amazon's is named
                                by `?endpoint_override=host:port&scheme=http` or by AWS_ENDPOINT_URL
    gs://bucket/path            Google Cloud Storage
    abfs://container@account.dfs.core.windows.net/path    Azure Blob Storage
    hdfs://namenode:port/path   Hadoop's file system
    az://, oci://, oss://       through fsspec, with its package for that store installed

Keys are read from the environment, a file or the machine's role, as each client does; never from the URI,
because it is written to the experiment's configuration.
"""

import os
import re
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from trainable.errors import ConfigError, nearest

Place = Path | str
"""A local folder, absolute or relative, or the URI of a folder in a store."""

ARROW_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs")
"""The stores that pyarrow can reach."""
FSSPEC_SCHEMES = {"az": "adlfs", "oci": "ocifs", "oss": "ossfs"}
"""The stores that fsspec can reach and pyarrow cannot, each with the package that it needs."""
SCHEMES = (*ARROW_SCHEMES, *FSSPEC_SCHEMES)

_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/(?P<second>/?)")


def place_of(value: str | Path) -> Place:
    """Return the place that a person gave.

    Raises:
        ConfigError: it is a URI that is not supported, or one that holds a password.
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
    parts = urlsplit(text)
    if parts.password is not None or (scheme == "s3" and parts.username is not None):
        raise ConfigError(
            f"'{scheme}://…@{parts.hostname}{parts.path}' must not hold a key: the URI is written to the "
            "experiment. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what the store's client reads, "
            "in the environment."
        )
    if not parts.netloc:
        raise ConfigError(f"'{text}' names no bucket: write {scheme}://bucket/path.")
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
    """Return a place that means the same from any folder and in a process with another environment."""
    if isinstance(place, Path):
        return place.resolve()
    parts = urlsplit(place)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if parts.scheme.lower() == "s3" and endpoint and "endpoint_override" not in parse_qs(parts.query):
        server = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        query = dict(parse_qsl(parts.query)) | {"endpoint_override": server.netloc, "scheme": server.scheme}
        parts = parts._replace(query=urlencode(query, safe=":"))
    return urlunsplit(parts._replace(path=parts.path.rstrip("/")))


def sent(place: Place) -> Place:
    """Return a place as another machine needs it: a URI with the server that the environment names here."""
    return place if isinstance(place, Path) else absolute(place)


def inside(place: Place, name: str) -> Place:
    """Return the place of a file or folder, given by its path with forward slashes, inside another place."""
    if isinstance(place, Path):
        return place / name
    parts = urlsplit(place)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}" if name else parts.path))


def parent_of(place: Place) -> Place:
    """Return the place that a file or folder lies in."""
    if isinstance(place, Path):
        return place.parent
    parts = urlsplit(place)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/").rpartition("/")[0]))


def name_of(place: Place) -> str:
    """Return the last part of a place's path."""
    return place.name if isinstance(place, Path) else urlsplit(place).path.rstrip("/").rpartition("/")[2]


def shown(place: Place) -> str:
    """Return a place as a person would write it here: without what the environment says already."""
    if isinstance(place, Path):
        return str(place)
    bare = urlunsplit(urlsplit(place)._replace(query=""))
    return bare if absolute(bare) == place else place


def _local(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise ConfigError(f"'{uri}' names no local folder: write file:///absolute/path, or a path.")
    return Path(unquote(parts.path))
