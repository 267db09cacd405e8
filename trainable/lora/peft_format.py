"""Adapters in PEFT's format: what `PeftModel.from_pretrained` loads, read and written without PEFT itself.

An adapter is a folder with `adapter_config.json` and `adapter_model.safetensors`. PEFT stores, for each
target layer, `lora_A.weight[r, d_in]` and `lora_B.weight[d_out, r]`; the packed stacks hold their transposes,
padded to the group's rank.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainable.config import LoraConfig
from trainable.errors import CheckpointError
from trainable.lora.adapter import Adapter
from trainable.lora.targets import plan_adapter

AdapterTensors = dict[str, Tensor]
"""PEFT's tensors by PEFT's names, fp32, on the CPU, at the true rank."""

_PREFIX = "base_model.model."
_EVERY_TARGET = {"target_modules": "all-linear", "exclude_modules": None, "layers_to_transform": None}
"""Selects all of a list of layers that is a selection already."""


def export_rows(adapter: Adapter, row: Tensor) -> AdapterTensors:
    """Return a tensor of an adapter as PEFT's tensors.

    Args:
        adapter: gives the layout.
        row: `[P]` its parameters, or anything laid out like them (a moment of the optimizer).
    """
    tensors: AdapterTensors = {}
    # A copy: on a CPU the row is the live one, which trains on while the copy is written.
    for name, (a, b) in adapter.layers(row.detach().to("cpu", copy=True)).items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = a.clone(memory_format=torch.contiguous_format)
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = b.T.clone(memory_format=torch.contiguous_format)
    return tensors


def import_rows(adapter: Adapter, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return PEFT's tensors as `[P]`, laid out like an adapter's parameters: the inverse of `export_rows`.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape.
    """
    row = torch.zeros_like(adapter.parameters, device="cpu")
    left = dict(tensors)
    for name, (a, b) in adapter.layers(row).items():
        for kind, view in (("A", a), ("B", b.T)):
            key = f"{_PREFIX}{name}.lora_{kind}.weight"
            tensor = left.pop(key, None)
            if tensor is None or tensor.shape != view.shape:
                found = "is missing" if tensor is None else f"has shape {tuple(tensor.shape)}"
                raise CheckpointError(f"adapter: tensor '{key}' {found}; expected shape {tuple(view.shape)}.")
            view.copy_(tensor)
    if left:
        raise CheckpointError(f"adapter: unexpected tensor '{next(iter(left))}'; is it of another model?")
    return row


def write_adapter(
    directory: Path, tensors: AdapterTensors, lora: LoraConfig, targets: Sequence[str], base_name: str
) -> None:
    """Write an adapter folder.

    Args:
        directory: is created.
        tensors: from `export_rows`.
        lora: rank, alpha, their patterns, dropout, rsLoRA.
        targets: the target layers' dotted names.
        base_name: what `AutoModelForCausalLM.from_pretrained` accepts.
    """
    directory.mkdir(parents=True, exist_ok=True)
    plan = plan_adapter(targets, lora.model_copy(update=_EVERY_TARGET))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": lora.r,
        "lora_alpha": lora.alpha,
        # By whole names: PEFT takes the first pattern that matches, and these match one layer each.
        "rank_pattern": {re.escape(name): rank for name, rank in plan.ranks.items() if rank != lora.r},
        "alpha_pattern": {
            re.escape(name): alpha for name, alpha in plan.alphas.items() if alpha != lora.alpha
        },
        "lora_dropout": lora.dropout,
        "use_rslora": lora.use_rslora,
        "target_modules": list(targets),
        "bias": "none",
        "fan_in_fan_out": False,
    }
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})


def read_adapter(directory: Path) -> AdapterTensors:
    """Read an adapter folder's tensors, as `write_adapter` or PEFT wrote them."""
    return load_file(directory / "adapter_model.safetensors")
