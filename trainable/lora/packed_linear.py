"""The packed layer: a frozen linear layer plus, for each run of rows, the adapters those rows belong to.

Rows of a fused pass are sorted by adapter, so the adapters of a group that have equally many rows form a
*run*: a view of the batch and one batched product for A, one for B. A row's result depends on no other
row. Gradients of A and B are added straight into the run's own matrix; a pass that fails half-way leaves
nothing behind in the group.

Shapes: n adapters in a run, m rows each, T padded tokens, R padded rank, P parameters of an adapter.
"""

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trainable.lora.dropout import DropoutKeys
from trainable.lora.group import AdapterGroup


@dataclass
class Run:
    """Consecutive rows of one pass: m rows of each of n adapters of one group.

    Attributes:
        group: names the layers that the adapters are part of.
        first_row: where the run begins in the pass.
        rows_each: m.
        weights: `[n, P]` in the dtype the products are computed in.
        scale: `[n, 1, 1]` what B A x is multiplied by.
        gradients: `[n, P]` that backward adds to; `None` when only evaluating.
        dropout: keys of the masks; `None` for no dropout.
    """

    group: AdapterGroup
    first_row: int
    rows_each: int
    weights: Tensor
    scale: Tensor
    gradients: Tensor | None = None
    dropout: DropoutKeys | None = None

    @property
    def rows(self) -> slice:
        """The run's rows in the pass."""
        return slice(self.first_row, self.first_row + len(self.weights) * self.rows_each)

    def view(self, batch: Tensor) -> Tensor:
        """View the run's rows of `batch[rows, T, D]` as `[n, m * T, D]`."""
        return batch[self.rows].view(len(self.weights), -1, batch.shape[-1])

    def drop(self, batch: Tensor, layer: str) -> Tensor | None:
        """Return the dropout multiplier for `batch[rows, T, D]`, as `[n, m * T, D]`."""
        if self.dropout is None:
            return None
        shape = (len(self.weights), self.rows_each, batch.shape[1], batch.shape[2])
        return self.dropout.multiplier(layer, shape, self.weights.dtype).flatten(1, 2)


class Router(threading.local):
    """Says which adapters the rows of the present thread's pass belong to; shared by a model's layers.

    Attributes:
        runs: of the pass, in the order of its rows.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.runs: list[Run] = []


class _AddAdapters(torch.autograd.Function):
    """y += scale * B A dropout(x), run by run, in place; backward saves only x and A x.

    y comes first: where a base layer returns a view, autograd takes the first input for the changed one.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, anchor: Tensor, layer: str, runs: list[Run]) -> Tensor:
        lows: list[Tensor] = []
        for run in runs:
            inputs = run.view(x).to(run.weights.dtype)
            if (multiplier := run.drop(x, layer)) is not None:
                inputs = inputs * multiplier
            low = torch.bmm(inputs, run.group.a(run.weights, layer)).mul_(run.scale)
            b = run.group.b(run.weights, layer)
            if y.dtype == b.dtype:
                run.view(y).baddbmm_(low, b)
            else:
                run.view(y).add_(torch.bmm(low, b))
            lows.append(low)
        ctx.layer, ctx.runs = layer, runs
        ctx.save_for_backward(x, *lows)
        ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        grad_y = grads[0].contiguous()
        x, *lows = ctx.saved_tensors
        grad_x = torch.zeros_like(x) if ctx.needs_input_grad[1] else None
        for run, low in zip(ctx.runs, lows, strict=True):
            group, weights, layer = run.group, run.weights, ctx.layer
            grad_run = run.view(grad_y).to(weights.dtype)
            inputs = run.view(x).to(weights.dtype)
            multiplier = run.drop(x, layer)
            if multiplier is not None:
                inputs = inputs * multiplier
            grad_low = torch.bmm(grad_run, group.b(weights, layer).transpose(1, 2)).mul_(run.scale)
            # Not baddbmm_: into a strided view it falls back to one product at a time.
            group.b(run.gradients, layer).add_(torch.bmm(low.transpose(1, 2), grad_run))
            group.a(run.gradients, layer).add_(torch.bmm(inputs.transpose(1, 2), grad_low))
            if grad_x is not None:
                grad_inputs = torch.bmm(grad_low, group.a(weights, layer).transpose(1, 2))
                if multiplier is not None:
                    grad_inputs.mul_(multiplier)
                run.view(grad_x).copy_(grad_inputs)
        return grad_y, grad_x, None, None, None


class PackedLinear(nn.Module):
    """A frozen linear layer and the adapters that the router names for it."""

    def __init__(self, base: nn.Module, name: str, router: Router) -> None:
        """Wrap `base`, known to adapters by its dotted `name` in the model."""
        super().__init__()
        self.base = base
        self.name = name
        self._router = router
        device = next(base.parameters()).device
        # Makes the output require a gradient where neither the input nor the frozen weight does.
        self._anchor = torch.zeros(0, device=device, requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return `base(x)` plus each row's adapter; `x` is `[rows, T, d_in]`."""
        y = self.base(x)
        runs = [run for run in self._router.runs if self.name in run.group.shapes]
        if not runs:
            return y
        return _AddAdapters.apply(y, x.contiguous(), self._anchor, self.name, runs)


def adaptable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return every layer that an adapter can be added to, by its dotted name.

    These are the linear layers (4-bit and 8-bit ones, and GPT-2's transposed `Conv1D`, included), except
    the output embedding, which PEFT's `all-linear` leaves out as well.
    """
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if module is not head and isinstance(module, nn.Linear | Conv1D)
    }


def adapt(model: nn.Module, router: Router) -> dict[str, tuple[int, int]]:
    """Wrap every adaptable layer of `model` in place.

    Returns:
        `(d_in, d_out)` of each wrapped layer by its name.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for name, layer in adaptable_layers(model).items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, PackedLinear(layer, name, router))
        transposed = isinstance(layer, Conv1D)
        shapes[name] = layer.weight.shape if transposed else (layer.in_features, layer.out_features)
    return shapes
