"""The packed layer: a frozen linear layer plus the adapters that the rows of a pass belong to.

Rows of a fused pass are sorted by adapter. Those that are computed together form a *span*, see
`trainable.lora.span`; a pass that fails half-way leaves nothing behind in the adapters.

A model may hand a layer `[rows, T, D]`, the same flattened to `[rows * T, D]`, or something with further
axes such as `[rows, 1, T, D]`. Which rows these are follows from the pass, never from the first axis: a pass
records its rows and tokens, and an input that does not hold them row by row raises an error. Whether the
values are really laid out so is checked once per model, by `trainable.engine.model_probe`.

Shapes: T padded tokens, K places of a row in a layer's input (T, or a multiple of it), R padded rank.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trainable.errors import ModelError
from trainable.lora.description import kinds_of
from trainable.lora.span import AdapterSpan


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

    @contextmanager
    def routed(self, spans: list[AdapterSpan], rows: int = 0, tokens: int = 0) -> Iterator[None]:
        """Set what the layers of the present thread see."""
        before = self.spans, self.rows, self.tokens
        self.spans, self.rows, self.tokens = spans, rows, tokens
        try:
            yield
        finally:
            self.spans, self.rows, self.tokens = before

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
            inputs = _without(span.take(x_RKD).to(span.dtype), span.dropped(x_RKD, layer))
            low = span.down(inputs, layer)
            span.add_up(span.take(y_RKO), low, layer)
            lows.append(low)
        ctx.layer, ctx.rows, ctx.spans = layer, rows, spans
        ctx.save_for_backward(x, *lows)
        ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_y = grads[0].contiguous()
        x, *lows = ctx.saved_tensors
        layer, spans = ctx.layer, ctx.spans
        x_RKD, grad_y_RKO = _by_row(x, ctx.rows), _by_row(grad_y, ctx.rows)
        through = ctx.needs_input_grad[1]
        found: list[Tensor] = []
        for span, low in zip(spans, lows, strict=True):
            dropped = span.dropped(x_RKD, layer)
            inputs = _without(span.take(x_RKD).to(span.dtype), dropped)
            grad_outputs = span.take(grad_y_RKO).to(span.dtype)
            grad_inputs = span.backward(inputs, low, grad_outputs, layer, through=through)
            if grad_inputs is not None:
                found.append(_without(grad_inputs, dropped))
        grad_x = _over_rows(found, spans, x, x_RKD) if through else None
        return grad_y, grad_x, None, None, None, None


def _without(values: Tensor, dropped: Tensor | None) -> Tensor:
    return values if dropped is None else values.masked_fill(dropped, 0)


def _over_rows(parts: list[Tensor], spans: list[AdapterSpan], x: Tensor, x_RKD: Tensor) -> Tensor:
    """Return the spans' gradients `[M, D]` as one like x; rows without an adapter have zero."""
    if len(spans) == 1 and parts[0].numel() == x.numel():
        return parts[0].to(x.dtype).view(x.shape)
    grad_RKD = torch.zeros_like(x_RKD)
    for span, part in zip(spans, parts, strict=True):
        span.take(grad_RKD).copy_(part)
    return grad_RKD.view(x.shape)


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
        spans = [span for span in self._router.spans if span.adapts(self.name)]
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
