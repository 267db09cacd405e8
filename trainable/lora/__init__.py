"""Many LoRA adapters over one frozen base: storage, the packed layer, the packed optimiser, PEFT's format."""

from trainable.lora.adamw import AdamWRow, adamw_step, clip_gradients
from trainable.lora.dropout import DropoutKeys
from trainable.lora.group import AdapterGroup, GroupKey, adapter_scale, rank_bucket
from trainable.lora.layer import PackedLinear, Router, Run, adapt
from trainable.lora.peft_format import AdapterTensors, read_adapter, write_adapter

__all__ = [
    "AdamWRow",
    "AdapterGroup",
    "AdapterTensors",
    "DropoutKeys",
    "GroupKey",
    "PackedLinear",
    "Router",
    "Run",
    "adamw_step",
    "adapt",
    "adapter_scale",
    "clip_gradients",
    "rank_bucket",
    "read_adapter",
    "write_adapter",
]
