"""Write the three files of a corpus; each is replaced atomically."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainable.errors import DataError
from trainable.files import write_atomically

SPLITS = ("train", "val", "test")


def write_splits(directory: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Path]:
    """Write each split's rows to `<directory>/<split>.json`, one row a line in a JSON array.

    Args:
        directory: it is created; files with these names in it are replaced.
        rows: the rows of each split, by its name.

    Returns:
        The files' paths, in the order of `rows`.

    Raises:
        DataError: the directory cannot be written.
    """
    paths = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for split, content in rows.items():
            path = directory / f"{split}.json"
            lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in content)
            write_atomically(path, f"[\n{lines}\n]\n")
            paths.append(path)
    except OSError as error:
        raise DataError(f"'{directory}' cannot be written to: {error}. Name another folder.") from None
    return paths
