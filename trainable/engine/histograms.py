"""Histograms of a trial's adapter and of its gradient, as W&B's watching of a model gives them.

One histogram for each kind of tensor, such as `q_proj.lora_A`: the values of all layers whose name ends so,
at the adapter's true rank. They are taken when the optimizer is about to step, of the parameters that the
gradient is of and of the gradient before it is clipped, every `wandb.watch_freq` steps.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from trainable import records
from trainable.config import WandbConfig
from trainable.engine.tenant import Tenant
from trainable.lora.adapter import Adapter

BINS = 64
"""As many as W&B's own watching takes."""


def add_histograms(tenant: Tenant) -> None:
    """Add the histograms of the step being taken to the trial's window, if they are due."""
    wandb = tenant.config.wandb
    step = tenant.step + 1
    if not is_watching(wandb) or step % wandb.watch_freq:
        return
    seen: dict[str, Any] = {records.STEP: step}
    adapter = tenant.adapter
    if wandb.log_gradients:
        seen["gradients"] = histograms(adapter, adapter.gradient)
    if wandb.log_parameters:
        seen["parameters"] = histograms(adapter, adapter.parameters)
    tenant.window.watched.append(seen)


def is_watching(wandb: WandbConfig) -> bool:
    """Whether any histogram is asked for."""
    return wandb.watch_model and (wandb.log_gradients or wandb.log_parameters) and wandb.mode != "disabled"


def histograms(adapter: Adapter, row: Tensor) -> dict[str, dict[str, Any]]:
    """Return a histogram of each kind of tensor in `row[P]`, laid out like the adapter, in types JSON has.

    Returns:
        By kind: `counts` of `BINS` bins of one width, from `low` to `high`. A kind with a value that is not
        finite is left out.
    """
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for name, (a, b) in adapter.layers(row.detach()).items():
        kind = name.rpartition(".")[2]
        parts[f"{kind}.lora_A"].append(a.flatten())
        parts[f"{kind}.lora_B"].append(b.flatten())
    found: dict[str, dict[str, Any]] = {}
    for kind, tensors in parts.items():
        values = torch.cat(tensors)
        low, high = torch.stack(values.aminmax()).tolist()
        if not torch.isfinite(torch.tensor([low, high])).all():
            continue
        if low == high:
            low, high = low - 0.5, high + 0.5
        counts = torch.histc(values, BINS, low, high)
        found[kind] = {"counts": counts.to(torch.int64).tolist(), "low": low, "high": high}
    return found
