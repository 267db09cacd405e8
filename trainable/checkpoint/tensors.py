"""Writing and reading a trial's checkpoint, tensors included.

The random state needs no file: data order, dropout and the initial adapter are functions of the seed and the
step. A reader trusts nothing that the manifest does not confirm, and says which file is wrong.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from trainable.checkpoint.manifest import ADAPTER, FORMAT, OPTIMIZER, STATE, read_state
from trainable.config import TrialConfig
from trainable.files import write_manifest
from trainable.lora.peft_format import AdapterTensors, read_adapter, write_adapter
from trainable.places import Place
from trainable.stores import local_copy, written_folder


@dataclass(frozen=True)
class Checkpoint:
    """All that a trial needs to continue.

    Attributes:
        config: the trial's.
        step: optimizer steps taken.
        record: its last metrics record.
        base_name: what `AutoModelForCausalLM.from_pretrained` accepts.
        base_id: the base model's identity; `None` in checkpoints from before it was stored.
        data_hash: of the rows it trained on.
        targets: the adapted layers' names.
        window: what happened since that record, as `trainable.engine.tenant.Window` has it.
        adapter, exp_avg, exp_avg_sq: by PEFT's tensor names, fp32, on the CPU.
    """

    config: TrialConfig
    step: int
    record: dict[str, Any]
    base_name: str
    base_id: str | None
    data_hash: str
    targets: tuple[str, ...]
    window: dict[str, Any]
    adapter: AdapterTensors
    exp_avg: AdapterTensors
    exp_avg_sq: AdapterTensors


def save_checkpoint(place: Place, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` as the folder at a place, replacing one that is there.

    Raises:
        OSError: the disk is full or read-only, and the folder is then as it was; or its store cannot be
            written to, and the folder is then not complete.
    """
    with written_folder(place) as fresh:
        _write_files(fresh, checkpoint)


def load_checkpoint(place: Place) -> Checkpoint:
    """Read the checkpoint folder at a place, checking every file against the manifest.

    Raises:
        CheckpointError: it is incomplete, altered, or of a newer format.
        StorageError: its store cannot be read.
    """
    with local_copy(place) as directory:
        return _read_files(directory, str(place))


def _read_files(directory: Path, label: str) -> Checkpoint:
    state = read_state(directory, label=label)
    moments = load_file(directory / OPTIMIZER)

    def moment(name: str) -> AdapterTensors:
        return {key.removeprefix(f"{name}."): t for key, t in moments.items() if key.startswith(f"{name}.")}

    return Checkpoint(
        config=TrialConfig.model_validate(state["config"]),
        step=state["step"],
        record=state["record"],
        base_name=state["base_name"],
        base_id=state.get("base_id"),
        data_hash=state["data_hash"],
        targets=tuple(state["targets"]),
        window=state["window"],
        adapter=read_adapter(directory / ADAPTER),
        exp_avg=moment("exp_avg"),
        exp_avg_sq=moment("exp_avg_sq"),
    )


def _write_files(directory: Path, checkpoint: Checkpoint) -> None:
    write_adapter(
        directory / ADAPTER,
        checkpoint.adapter,
        checkpoint.config.lora,
        checkpoint.targets,
        checkpoint.base_name,
    )
    moments = {f"exp_avg.{name}": tensor for name, tensor in checkpoint.exp_avg.items()}
    moments |= {f"exp_avg_sq.{name}": tensor for name, tensor in checkpoint.exp_avg_sq.items()}
    save_file(moments, directory / OPTIMIZER)
    state = {
        "format": FORMAT,
        "step": checkpoint.step,
        "record": checkpoint.record,
        "base_name": checkpoint.base_name,
        "base_id": checkpoint.base_id,
        "data_hash": checkpoint.data_hash,
        "targets": list(checkpoint.targets),
        "window": checkpoint.window,
        "config": checkpoint.config.model_dump(mode="json"),
    }
    (directory / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")
    write_manifest(directory)
