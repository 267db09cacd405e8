"""Corpora that are made when they are needed: `corpus:weather@1500` in place of a data file.

A corpus is a function of a split's name and a number of rows, registered in `CORPORA` or named as
`corpus:package.module:function@ROWS`. The same arguments must give the same rows on every machine. The rows
are written once to the user's cache, and again when the function's code changes.
"""

import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from trainable.config import CORPUS_PREFIX
from trainable.errors import DataError, nearest
from trainable.extension import load_object
from trainable.files import loratune_cache, write_atomically

CORPORA: Mapping[str, str] = {"weather": "trainable.weather.corpus:weather_rows"}
"""The shipped corpora by name; each is loaded when it is named, as a user's own would be."""

_NAME = re.compile(rf"{CORPUS_PREFIX}(?P<name>.+)@(?P<rows>[1-9]\d*)")


class Corpus(Protocol):
    """Makes the rows of one split."""

    def __call__(self, split: str, rows: int, /) -> Iterable[Mapping[str, Any]]:
        """Return `rows` rows of the split `train`, `val` or `test`."""
        ...


def corpus_file(source: str, split: str) -> Path:
    """Return the file of one split of a corpus, made if it is not there.

    Args:
        source: `corpus:NAME@ROWS`.
        split: `train`, `val` or `test`.

    Raises:
        DataError: there is no such corpus, it has too few rows, or the cache cannot be written to.
        ConfigError: a corpus of the user's own cannot be imported.
    """
    parts = _NAME.fullmatch(source)
    if parts is None:
        raise DataError(
            f"data.{split} '{source}' must be written as {CORPUS_PREFIX}NAME@ROWS, such as "
            f"{CORPUS_PREFIX}weather@1500."
        )
    corpus, rows = _load(parts["name"], split), int(parts["rows"])
    name = re.sub(r"[^A-Za-z0-9.]+", "-", parts["name"])
    path = loratune_cache() / "corpora" / f"{name}-{_code(corpus)}" / f"{split}-{rows}.json"
    if path.exists():
        return path
    lines = ",\n".join(json.dumps(dict(row), ensure_ascii=False) for row in corpus(split, rows))
    try:
        write_atomically(path, f"[\n{lines}\n]\n")
    except OSError as error:
        raise DataError(
            f"data.{split} '{source}' cannot be written to '{path.parent}': {error.strerror}. Name another "
            "cache folder in the environment variable LORATUNE_CACHE."
        ) from None
    return path


def _load(name: str, split: str) -> Corpus:
    if name not in CORPORA and ":" not in name:
        raise DataError(
            f"data.{split}: there is no corpus '{name}'.{nearest(name, CORPORA)} "
            f"Allowed: {', '.join(CORPORA)}, or `package.module:function` of your own."
        )
    corpus: Corpus = load_object(CORPORA.get(name, name), f"data.{split}")
    return corpus


def _code(corpus: Corpus) -> str:
    """Return a hash of the function's module, or of its package where it is in one."""
    module = Path(inspect.getfile(corpus))
    in_package = (module.parent / "__init__.py").exists()
    files = sorted(module.parent.rglob("*.py")) if in_package else [module]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
