"""From the portions of a pass to the spans of adapters that its rows belong to, and back to the groups."""

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
            span.dropout = _dropout(part, weights.device)
        spans.append(span)
        row += len(part) * rows_each
    return spans


def add_gradients(spans: Sequence[AdapterSpan], tenants: Sequence[Tenant]) -> None:
    """Add the gradients of a pass to the groups of its tenants, which are in the order of its portions."""
    begin = 0
    for span in spans:
        assert span.gradients is not None
        slots = _slots(tenants[begin : begin + len(span.weights)])
        span.group.gradients.index_add_(0, slots, span.gradients.float())
        begin += len(span.weights)


def _dropout(part: Sequence[tuple[Portion, Tenant]], device: torch.device) -> DropoutKeys | None:
    rates = [tenant.config.lora.dropout for _, tenant in part]
    if not any(rates):
        return None
    keys = [
        row_keys(t.config.training.seed, t.step, range(p.offset, p.offset + len(p.rows))) for p, t in part
    ]
    signed = torch.tensor(keys, dtype=torch.int64).sub_(2**31).to(torch.int32)
    return DropoutKeys(signed.to(device), torch.tensor(rates, device=device))


def _slots(tenants: Sequence[Tenant]) -> Tensor:
    return torch.tensor([tenant.slot for tenant in tenants], device=tenants[0].group.parameters.device)
