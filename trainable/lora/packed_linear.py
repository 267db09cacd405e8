"""The packed layer: a frozen linear layer plus, for each span of rows, the adapters those rows belong to.

Rows of a fused pass are sorted by adapter, so the adapters of a group that have equally many rows form a
*span*: a view of the batch and one batched product for A, one for B. A row's result depends on no other
row. Gradients of A and B are added to the span's own matrix; a pass that fails half-way leaves nothing behind
in the group.

A model may hand a layer `[rows, T, D]`, the same flattened to `[rows * T, D]`, or something with further
axes such as `[rows, 1, T, D]`. Which rows these are follows from the pass, never from the first axis: a pass
records its rows and tokens, and an input that does not hold them row by row raises an error. Whether the
values are really laid out so is checked once per model, by `trainable.engine.model_probe`.

Shapes: n adapters in a span, m rows each, T padded tokens, K places of a row in a layer's input (T, or a
multiple of it), R padded rank, P parameters of an adapter.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trainable.errors import ModelError
from trainable.lora.description import kinds_of
from trainable.lora.dropout import DropoutKeys
from trainable.lora.group import AdapterGroup


@dataclass
class AdapterSpan:
    """Consecutive rows of one pass: m rows of each of n adapters of one group.

    Attributes:
        group: names the layers that the adapters are part of.
        first_row: where the span begins in the pass.
        rows_each: m.
        weights: `[n, P]` in the dtype the products are computed in.
        scales: `[layers of the group, n, 1, 1]` what B A x is multiplied by, in the group's order of layers.
        gradients: `[n, P]` that backward adds to; `None` when only evaluating.
        dropout: keys of the masks, which spans may share; `None` for no dropout.
        dropout_row: which of its rows is the span's first.
    """

    group: AdapterGroup
    first_row: int
    rows_each: int
    weights: Tensor
    scales: Tensor
    gradients: Tensor | None = None
    dropout: DropoutKeys | None = None
    dropout_row: int = 0

    @property
    def rows(self) -> slice:
        """The span's rows in the pass."""
        return slice(self.first_row, self.first_row + len(self.weights) * self.rows_each)

    def view(self, batch: Tensor) -> Tensor:
        """View the span's rows of `batch[rows, K, D]` as `[n, m * K, D]`."""
        return batch[self.rows].view(len(self.weights), -1, batch.shape[-1])

    def scale(self, layer: str) -> Tensor:
        """Return `[n, 1, 1]` what this layer's B A x is multiplied by."""
        return self.scales[self.group.order[layer]]

    def drop(self, batch: Tensor, layer: str) -> Tensor | None:
        """Return the dropout multiplier for `batch[rows, K, D]`, as `[n, m * K, D]`."""
        if self.dropout is None:
            return None
        shape = (*self.dropout.keys.shape, *batch.shape[1:])
        multiplier = self.dropout.multiplier(layer, shape, self.weights.dtype).flatten(0, 1)
        count = len(self.weights) * self.rows_each
        rows = multiplier[self.dropout_row : self.dropout_row + count]
        return rows.view(len(self.weights), -1, batch.shape[2])


class Router(threading.local):
    """Says which adapters the rows of the present thread's pass belong to; shared by a model's layers.

    Attributes:
        spans: of the pass, in the order of its rows; empty outside a pass.
        rows, tokens: of the forward call being made: the shape of its `input_ids`.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.spans: list[AdapterSpan] = []
        self.rows = 0
        self.tokens = 0

    def note_shape(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the rows and tokens of a forward call; a forward pre-hook of the whole model."""
        input_ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        self.rows, self.tokens = input_ids.shape


def places_per_token(shape: tuple[int, ...], rows: int, tokens: int) -> float | None:
    """Return how many places of a layer's input `[..., D]` a token has, if it can hold row after row.

    Returns:
        1 for `[rows, T, D]` and for `[rows * T, D]`; more where a token has several places, a fraction where
        tokens are pooled; `None` for a shape that does not have the pass's rows in front.
    """
    if len(shape) < 2:
        return None
    places = 1
    for size in shape[:-1]:
        places *= size
    if len(shape) == 2:
        return places / (rows * tokens) if places and places % (rows * tokens) == 0 else None
    return places / (rows * tokens) if shape[0] == rows else None


class _AddAdapters(torch.autograd.Function):
    """y += scale * B A dropout(x), span by span, in place; backward saves only x and A x.

    y comes first: where a base layer returns a view, autograd takes the first input for the changed one.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, anchor: Tensor, layer: str, rows: int, spans: list[AdapterSpan]
    ) -> Tensor:
        x_RKD, y_RKO = _by_row(x, rows), _by_row(y, rows)
        lows: list[Tensor] = []
        for span in spans:
            inputs = span.view(x_RKD).to(span.weights.dtype)
            if (multiplier := span.drop(x_RKD, layer)) is not None:
                inputs = inputs * multiplier
            low = torch.bmm(inputs, span.group.a(span.weights, layer)).mul_(span.scale(layer))
            b = span.group.b(span.weights, layer)
            if y.dtype == b.dtype:
                span.view(y_RKO).baddbmm_(low, b)
            else:
                span.view(y_RKO).add_(torch.bmm(low, b))
            lows.append(low)
        ctx.layer, ctx.rows, ctx.spans = layer, rows, spans
        ctx.save_for_backward(x, *lows)
        ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_y = grads[0].contiguous()
        x, *lows = ctx.saved_tensors
        grad_x = torch.zeros_like(x) if ctx.needs_input_grad[1] else None
        x_RKD, grad_y_RKO = _by_row(x, ctx.rows), _by_row(grad_y, ctx.rows)
        for span, low in zip(ctx.spans, lows, strict=True):
            group, weights, layer = span.group, span.weights, ctx.layer
            grad_span = span.view(grad_y_RKO).to(weights.dtype)
            inputs = span.view(x_RKD).to(weights.dtype)
            multiplier = span.drop(x_RKD, layer)
            if multiplier is not None:
                inputs = inputs * multiplier
            grad_low = torch.bmm(grad_span, group.b(weights, layer).transpose(1, 2)).mul_(span.scale(layer))
            # Not baddbmm_: into a strided view it falls back to one product at a time.
            group.b(span.gradients, layer).add_(torch.bmm(low.transpose(1, 2), grad_span))
            group.a(span.gradients, layer).add_(torch.bmm(inputs.transpose(1, 2), grad_low))
            if grad_x is not None:
                grad_inputs = torch.bmm(grad_low, group.a(weights, layer).transpose(1, 2))
                if multiplier is not None:
                    grad_inputs.mul_(multiplier)
                span.view(_by_row(grad_x, ctx.rows)).copy_(grad_inputs)
        return grad_y, grad_x, None, None, None, None


def _by_row(batch: Tensor, rows: int) -> Tensor:
    """View `[..., D]`, which holds row after row, as `[rows, K, D]`."""
    return batch if batch.dim() == 3 else batch.view(rows, -1, batch.shape[-1])


class PackedLinear(nn.Module):
    """A frozen linear layer and the adapters that the router names for it."""

    def __init__(self, base: nn.Module, name: str, router: Router, per_token: float) -> None:
        """Wrap `base`.

        Args:
            base: the linear layer.
            name: what adapters know it by: its dotted name in the model.
            router: shared by all layers of the model.
            per_token: places of a token in the layer's input, from `places_per_token`.
        """
        super().__init__()
        self.base = base
        self.name = name
        self._router = router
        self._per_token = per_token
        device = next(base.parameters()).device
        # Makes the output require a gradient where neither the input nor the frozen weight does.
        self._anchor = torch.zeros(0, device=device, requires_grad=True)

    @property
    def weight(self) -> Tensor:
        """The base layer's weight: some models read it beside calling the layer."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The base layer's bias."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return `base(x)` plus each row's adapter.

        Raises:
            ModelError: `x` does not hold the rows of the pass one after the other.
        """
        y = self.base(x)
        spans = [span for span in self._router.spans if self.name in span.group.shapes]
        if not spans:
            return y
        rows, tokens = self._router.rows, self._router.tokens
        per_token = places_per_token(tuple(x.shape), rows, tokens)
        if per_token is None or (x.dim() == 2 and per_token != self._per_token):
            raise ModelError(
                f"layer '{self.name}' was given {list(x.shape)} in a pass of {rows} rows of {tokens} tokens, "
                "so its rows cannot be told apart. Leave it out with lora.exclude_modules."
            )
        return _AddAdapters.apply(y.contiguous(), x.contiguous(), self._anchor, self.name, rows, spans)


def adaptable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return every layer that an adapter might be added to, by its dotted name.

    These are the linear layers (4-bit and 8-bit ones, and GPT-2's transposed `Conv1D`, included), except
    the output embedding, which PEFT's `all-linear` leaves out as well.
    """
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if module is not head and isinstance(module, nn.Linear | Conv1D)
    }


def linear_shape(layer: nn.Module) -> tuple[int, int]:
    """Return `(d_in, d_out)` of an adaptable layer."""
    if isinstance(layer, Conv1D):
        d_in, d_out = layer.weight.shape
        return d_in, d_out
    return layer.in_features, layer.out_features


def adapt(model: nn.Module, router: Router, per_token: Mapping[str, float]) -> dict[str, tuple[int, int]]:
    """Wrap layers of `model` in place.

    Args:
        model: each of its forward calls records its rows and tokens in `router`.
        router: shared by the wrapped layers.
        per_token: the layers to wrap, and the places that a token has in their input.

    Returns:
        `(d_in, d_out)` of each wrapped layer by its name.
    """
    model.register_forward_pre_hook(router.note_shape, with_kwargs=True)
    shapes: dict[str, tuple[int, int]] = {}
    for name, places in per_token.items():
        layer = model.get_submodule(name)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, PackedLinear(layer, name, router, places))
        shapes[name] = linear_shape(layer)
    return shapes


def stacked_parameters(model: nn.Module) -> tuple[str, ...]:
    """Return the weights of fused experts and of routers.

    Named without their block's number. A stack of experts is a parameter with three axes; a router is the
    matrix beside it that no linear layer and no embedding holds.
    """
    parameters = dict(model.named_parameters())
    experts = [name for name, p in parameters.items() if p.dim() == 3 and ".experts." in f".{name}"]
    blocks = {name.partition(".experts.")[0] for name in experts}
    routers = [
        name
        for name, p in parameters.items()
        if p.dim() == 2
        and ".experts." not in name
        and name.rpartition(".")[0].rpartition(".")[0] in blocks
        and not isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear | nn.Embedding)
    ]
    return tuple(kinds_of([*experts, *routers]))
