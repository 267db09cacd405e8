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


def read_state(directory: Path, *, deep: bool = True, label: str | None = None) -> dict[str, Any]:
    """Return the content of a complete checkpoint's `state.json`.

    Args:
        directory: the checkpoint.
        deep: hash every file; else compare sizes only, which costs no reading.
        label: names the checkpoint in messages; `None`: the directory.

    Raises:
        CheckpointError: it is corrupt, or of a newer format.
    """
    problem = check_manifest(directory, deep=deep)
    content = (directory / STATE).read_bytes() if problem is None else b""
    return parse_state(content, problem, label or str(directory))


def parse_state(content: bytes, problem: str | None, label: str) -> dict[str, Any]:
    """Return the content of a checkpoint's `state.json`.

    Args:
        content: the file's.
        problem: what is wrong with the checkpoint's files; `None` if nothing is.
        label: names the checkpoint in messages.

    Raises:
        CheckpointError: there is a problem, or the checkpoint is of a newer format.
    """
    state: dict[str, Any] = {}
    try:
        state = {} if problem else json.loads(content)
        is_newer = not problem and state["format"] > FORMAT
    except (ValueError, KeyError, TypeError):
        problem, is_newer = f"'{STATE}' is corrupt", False
    if problem is not None:
        raise CheckpointError(f"checkpoint '{label}': {problem}. Use an earlier checkpoint.")
    if is_newer:
        raise CheckpointError(
            f"checkpoint '{label}' has format {state['format']}; this version reads {FORMAT}. "
            "Update loratune."
        )
    return state
