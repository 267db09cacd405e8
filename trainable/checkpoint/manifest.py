"""Whether a checkpoint folder is whole, and what it says of itself; readable without torch.

A folder is whole if each file is as long, and has the SHA-256, that `manifest.json` says.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from trainable.errors import CheckpointError

MANIFEST = "manifest.json"
"""Written last: a folder without it is not a checkpoint."""
STATE = "state.json"
"""Step, configuration, base model, data, and the last metrics record."""
FORMAT = 1


def write_manifest(directory: Path) -> None:
    """Describe every file of `directory`."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    manifest = {"files": {str(path.relative_to(directory)): _describe(path) for path in files}}
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def read_state(directory: Path) -> dict[str, Any]:
    """Return what a whole checkpoint says of itself: the content of its `state.json`.

    Raises:
        CheckpointError: it is torn, altered, or of a newer format.
    """
    verify_checkpoint(directory)
    state = json.loads((directory / STATE).read_text(encoding="utf-8"))
    if state["format"] != FORMAT:
        raise CheckpointError(
            f"checkpoint '{directory}' has format {state['format']}; this version reads {FORMAT}. "
            "Update loratune."
        )
    return state


def verify_checkpoint(directory: Path) -> None:
    """Check that `directory` is a whole checkpoint.

    Raises:
        CheckpointError: names the file that is missing or altered.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        files = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint '{directory}' has no readable {MANIFEST}: {error}.") from error
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            raise CheckpointError(
                f"checkpoint '{directory}': '{name}' is missing. Use an earlier checkpoint."
            )
        if (found := _describe(path)) != expected:
            raise CheckpointError(
                f"checkpoint '{directory}': '{name}' is torn or altered ({found['bytes']} bytes, "
                f"expected {expected['bytes']}). Use an earlier checkpoint."
            )


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
