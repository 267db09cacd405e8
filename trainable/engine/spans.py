"""From the portions of a pass to the spans of adapters that its rows belong to.

How many spans a pass has is a matter of cost alone. Every span launches operations of its own in every layer;
adapters that share one are computed at the largest of their ranks, over all layers that any of them has. A
device takes the partition whose launches and arithmetic together take least.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch.nn import functional

from trainable.engine.batching import Portion
from trainable.engine.tenant import Tenant
from trainable.lora.adapter import Adapter
from trainable.lora.dropout import row_keys
from trainable.lora.span import AdapterSpan
from trainable.lora.stack import padded_rank

_LAUNCHES = 8
"""Operations that a span adds to a layer, forward and backward."""


@dataclass(frozen=True)
class Costs:
    """What a device needs for small products.

    Attributes:
        launch: seconds of the processor for one operation.
        flop: seconds for one floating-point operation of a product.
        ragged: whether adapters with unequal numbers of rows can share a product.
    """

    launch: float
    flop: float
    ragged: bool


ON_CPU = Costs(launch=1e-5, flop=4e-11, ragged=True)
ON_GPU = Costs(launch=5e-6, flop=1e-14, ragged=True)


def costs_of(device: torch.device, dtype: torch.dtype, widths: Sequence[int]) -> Costs:
    """Return the costs of a device.

    Args:
        device: what the passes run on.
        dtype: of the products.
        widths: of all inputs and outputs of layers.
    """
    costs = ON_CPU if device.type == "cpu" else ON_GPU
    # Grouped products need lines of whole 16 bytes.
    aligned = all(width * dtype.itemsize % 16 == 0 for width in widths)
    return replace(costs, ragged=aligned and _has_grouped(device, dtype))


def _has_grouped(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a device has the grouped product for a dtype."""
    values, stack = (torch.zeros(shape, dtype=dtype, device=device) for shape in ((16, 8), (1, 8, 8)))
    try:
        functional.grouped_mm(values, stack, offs=torch.tensor([16], dtype=torch.int32, device=device))
    except RuntimeError:
        return False
    return device.type == "cpu" or dtype == torch.bfloat16


@dataclass(frozen=True)
class Member:
    """A portion of a pass with its trial."""

    portion: Portion
    tenant: Tenant

    @property
    def adapter(self) -> Adapter:
        """The trial's."""
        return self.tenant.adapter

    @property
    def rows(self) -> int:
        """Rows of the portion."""
        return len(self.portion.rows)


def make_spans(
    members: Sequence[Member], width: int, costs: Costs, dtype: torch.dtype, *, training: bool
) -> list[AdapterSpan]:
    """Make the spans of a pass.

    Args:
        members: of the pass, in its order.
        width: padded tokens of a row.
        costs: of the device.
        dtype: of the adapters' products.
        training: whether dropout is applied.
    """
    spans: list[AdapterSpan] = []
    row = 0
    for part in partition(members, width, costs):
        rates = [member.tenant.config.lora.dropout for member in part] if training else []
        keys = [key for member in part for key in _keys(member)] if any(rates) else []
        counts = [member.rows for member in part]
        adapters = [member.adapter for member in part]
        spans.append(AdapterSpan(adapters, counts, row, dtype, rates=rates, keys=keys))
        row += sum(counts)
    return spans


def partition(members: Sequence[Member], width: int, costs: Costs) -> list[list[Member]]:
    """Divide the members of a pass, in their order, into the spans that take least time together.

    Members of equal rank and layers always share a span. The best partition of the first j of these classes
    ends in some last span i..j, and before that is the best of the first i.

    Args:
        members: sorted so that those with equal layers stand together, and within these those of equal rank.
        width: padded tokens of a row.
        costs: of the device.
    """

    def alike(member: Member) -> tuple[object, ...]:
        adapter = member.adapter
        return adapter.layout, padded_rank(adapter.rank), 0 if costs.ragged else member.rows

    classes = [list(part) for _, part in groupby(members, key=alike)]
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(classes) + 1):
        options = []
        for begin in range(end):
            part = [member for one in classes[begin:end] for member in one]
            if costs.ragged or len({member.rows for member in part}) == 1:
                options.append((best[begin][0] + span_seconds(part, width, costs), begin))
        best.append(min(options))
    spans: list[list[Member]] = []
    end = len(classes)
    while end:
        begin = best[end][1]
        spans.append([member for one in classes[begin:end] for member in one])
        end = begin
    return spans[::-1]


def span_seconds(members: Sequence[Member], width: int, costs: Costs) -> float:
    """Estimate what a span adds to a training step.

    Launches of each layer, and three products (forward, and backward to the parameters and to the inputs) of
    2 * R * (d_in + d_out) operations for each layer and token.
    """
    shapes = {name: sum(shape) for m in members for name, shape in m.adapter.layout.shapes.items()}
    rank = padded_rank(max(member.adapter.rank for member in members))
    tokens = width * sum(member.rows for member in members)
    flops = 6 * rank * sum(shapes.values()) * tokens
    return _LAUNCHES * len(shapes) * costs.launch + flops * costs.flop


def _keys(member: Member) -> list[int]:
    portion, tenant = member.portion, member.tenant
    rows = range(portion.offset, portion.offset + len(portion.rows))
    return row_keys(tenant.config.training.seed, tenant.step, rows)
