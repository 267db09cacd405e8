"""From the portions of a pass to the spans of adapters that its rows belong to, and back to the groups."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from trainable.engine.batching import Portion
from trainable.engine.tenant import Tenant
from trainable.lora.dropout import DropoutKeys, row_keys
from trainable.lora.packed_linear import AdapterSpan


def make_spans(
    portions: Sequence[Portion], tenants: Sequence[Tenant], dtype: torch.dtype, *, training: bool
) -> list[AdapterSpan]:
    """Make a span of each stretch of portions with one group and one number of rows.

    Args:
        portions: of one pass, in its order.
        tenants: the owner of each portion.
        dtype: of the adapters' products.
        training: whether the spans take gradients and apply dropout.
    """
    spans: list[AdapterSpan] = []
    row = 0
    pairs = zip(portions, tenants, strict=True)
    for (_, rows_each), members in groupby(pairs, key=lambda pair: (pair[1].group.key, len(pair[0].rows))):
        part = list(members)
        owners = [tenant for _, tenant in part]
        group = owners[0].group
        weights = group.parameters.index_select(0, _slots(owners)).to(dtype)
        scales = weights.new_tensor([list(tenant.plan.scales.values()) for tenant in owners])
        span = AdapterSpan(group, row, rows_each, weights, scales.T[:, :, None, None])
        if training:
            span.gradients = torch.zeros_like(weights)
        spans.append(span)
        row += len(part) * rows_each
    if training:
        _add_dropout(spans, portions, tenants)
    return spans


def add_gradients(spans: Sequence[AdapterSpan], tenants: Sequence[Tenant]) -> None:
    """Add the gradients of a pass to the groups of its tenants, which are in the order of its portions."""
    begin = 0
    for span in spans:
        assert span.gradients is not None
        slots = _slots(tenants[begin : begin + len(span.weights)])
        span.group.gradients.index_add_(0, slots, span.gradients.float())
        begin += len(span.weights)


def _add_dropout(
    spans: Sequence[AdapterSpan], portions: Sequence[Portion], tenants: Sequence[Tenant]
) -> None:
    """Give the spans that drop anything their keys: one object for all that adapt the same layers."""
    alike: dict[tuple[str, ...], list[tuple[AdapterSpan, list[int], list[float]]]] = defaultdict(list)
    begin = 0
    for span in spans:
        members = range(begin, begin + len(span.weights))
        begin += len(span.weights)
        rates = [tenants[number].config.lora.dropout for number in members]
        if any(rates):
            keys = [key for number in members for key in _keys(portions[number], tenants[number])]
            by_row = [rate for rate in rates for _ in range(span.rows_each)]
            alike[span.group.key.targets].append((span, keys, by_row))
    for sharing in alike.values():
        device = sharing[0][0].weights.device
        keys = torch.tensor([key for _, keys, _ in sharing for key in keys], dtype=torch.int64)
        shared = DropoutKeys(
            keys.sub_(2**31).to(torch.int32)[:, None].to(device),
            torch.tensor([rate for _, _, rates in sharing for rate in rates], device=device),
        )
        row = 0
        for span, own, _ in sharing:
            span.dropout, span.dropout_row = shared, row
            row += len(own)


def _keys(portion: Portion, tenant: Tenant) -> list[int]:
    rows = range(portion.offset, portion.offset + len(portion.rows))
    return row_keys(tenant.config.training.seed, tenant.step, rows)


def _slots(tenants: Sequence[Tenant]) -> Tensor:
    return torch.tensor([tenant.slot for tenant in tenants], device=tenants[0].group.parameters.device)
