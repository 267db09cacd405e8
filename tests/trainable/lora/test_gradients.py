"""Gradients of packed layers in double precision, against autograd on the plain formula and its masks."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from trainable.lora.dropout import DropoutKeys, row_keys
from trainable.lora.group import AdapterGroup, GroupKey
from trainable.lora.packed_linear import AdapterSpan, Router, adapt

ROWS, TOKENS, WIDTH = 5, 4, 6
LAYERS = ("first", "left", "right", "last")


class Net(nn.Module):
    """Four adaptable layers: two share their input, one is behind them, so that gradients flow through."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, WIDTH)
        for name in LAYERS:
            setattr(self, name, nn.Linear(WIDTH, WIDTH))

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(self.embed(input_ids)))
        return self.last(torch.tanh(self.left(hidden)) * self.right(hidden))


def keys(seed: int, rows: int, rate: float) -> DropoutKeys:
    numbers = torch.tensor([row_keys(seed, 3, range(rows))], dtype=torch.int64).sub_(2**31).to(torch.int32)
    return DropoutKeys(numbers, torch.tensor([rate]))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().double().requires_grad_(False)


@pytest.fixture
def spans() -> list[AdapterSpan]:
    """Two adapters of unlike ranks, targets and rows, the second at a higher rate."""
    generator = torch.Generator().manual_seed(1)
    made, first_row = [], 0
    layouts = [(8, LAYERS, 2, 0.3), (16, ("first", "right", "last"), 3, 0.6)]
    for seed, (rank, targets, rows, rate) in enumerate(layouts):
        group = AdapterGroup(
            GroupKey(rank, targets), dict.fromkeys(targets, (WIDTH, WIDTH)), torch.device("cpu")
        )
        width = group.parameters.shape[1]
        weights = torch.randn(1, width, dtype=torch.float64, generator=generator) / 3
        scales = torch.rand(len(targets), 1, 1, 1, dtype=torch.float64, generator=generator) + 0.5
        span = AdapterSpan(
            group, first_row, rows, weights, scales, torch.zeros_like(weights), keys(seed, rows, rate)
        )
        made.append(span)
        first_row += rows
    return made


def packed(net: Net, spans: list[AdapterSpan]) -> tuple[Callable[[Tensor], Tensor], Router]:
    router = Router()
    adapt(net, router, dict.fromkeys(LAYERS, 1.0))
    router.spans = spans
    return net, router


def plain(net: Net, spans: list[AdapterSpan], ids: Tensor, weights: list[Tensor]) -> Tensor:
    """Return what the packed network computes, by y = W x + scale * B A (mask * x), one adapter at a time."""
    outputs = []
    for span, rows in zip(spans, weights, strict=True):

        def layer(name: str, x: Tensor, span: AdapterSpan = span, rows: Tensor = rows) -> Tensor:
            y = getattr(net, name)(x)
            if name not in span.group.shapes:
                return y
            assert span.dropout is not None
            mask = span.dropout.multiplier(name, (1, span.rows_each, TOKENS, WIDTH), torch.float64)[0]
            a, b = span.group.a(rows, name)[0], span.group.b(rows, name)[0]
            return y + span.scale(name).item() * (x * mask) @ a @ b

        hidden = torch.tanh(layer("first", net.embed(ids[span.rows])))
        outputs.append(layer("last", torch.tanh(layer("left", hidden)) * layer("right", hidden)))
    return torch.cat(outputs)


def test_gradients_flow_through_the_same_masks_as_the_values(net: Net, spans: list[AdapterSpan]) -> None:
    ids = torch.randint(0, 9, (ROWS, TOKENS), generator=torch.Generator().manual_seed(2))
    target = torch.randn(ROWS, TOKENS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    weights = [span.weights.clone().requires_grad_() for span in spans]
    expected = plain(net, spans, ids, weights)
    (expected * target).sum().backward()
    run, _ = packed(net, spans)
    found = run(ids)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)
    (found * target).sum().backward()
    for span, parameter in zip(spans, weights, strict=True):
        assert span.gradients is not None
        assert parameter.grad is not None
        torch.testing.assert_close(span.gradients, parameter.grad, rtol=1e-10, atol=1e-12)
        # Every layer of the adapter has a gradient, so that none was compared zero with zero.
        for name in span.group.shapes:
            assert span.group.a(span.gradients, name).abs().max() > 1e-3


def test_the_gradient_of_the_input_is_the_derivative(net: Net, spans: list[AdapterSpan]) -> None:
    _, router = packed(net, spans)
    router.rows, router.tokens = ROWS, TOKENS
    for name in LAYERS:
        layer = net.get_submodule(name)
        x = torch.randn(ROWS, TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(layer, (x,), atol=1e-8)
