"""What makes a checkpoint folder complete, and what it says of itself; readable without torch.

    adapter/              PEFT's format, loadable with `PeftModel.from_pretrained`
    optimizer.safetensors AdamW's two moments, named like the adapter's tensors
    state.json            step, configuration, base model, data, last metrics record
    manifest.json         size and SHA-256 of every file above

A folder is complete if every file has the size and the SHA-256 that the manifest says.
"""

import json
from pathlib import Path
from typing import Any

from trainable.errors import CheckpointError
from trainable.files import check_manifest

ADAPTER = "adapter"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
FORMAT = 1


def read_state(directory: Path, *, deep: bool = True) -> dict[str, Any]:
    """Return the content of a complete checkpoint's `state.json`.

    Args:
        directory: the checkpoint.
        deep: hash every file; else compare sizes only, which costs no reading.

    Raises:
        CheckpointError: it is corrupt, or of a newer format.
    """
    verify_checkpoint(directory, deep=deep)
    state = json.loads((directory / STATE).read_text(encoding="utf-8"))
    if state["format"] > FORMAT:
        raise CheckpointError(
            f"checkpoint '{directory}' has format {state['format']}; this version reads {FORMAT}. "
            "Update loratune."
        )
    return state


def verify_checkpoint(directory: Path, *, deep: bool = True) -> None:
    """Check that `directory` is a complete checkpoint.

    Raises:
        CheckpointError: names the file that is missing or corrupt.
    """
    if (problem := check_manifest(directory, deep=deep)) is not None:
        raise CheckpointError(f"checkpoint '{directory}': {problem}. Use an earlier checkpoint.")
