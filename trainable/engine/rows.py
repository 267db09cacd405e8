"""Which rows of a table an evaluation or a generation takes, and in what portions."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from trainable.engine.batching import Portion
from trainable.engine.tenant import Tenant


def in_chunks(tenants: Sequence[Tenant], rows: Mapping[str, Sequence[int]]) -> Iterator[list[Portion]]:
    """Yield portions of all tenants, an evaluation batch of each at a time.

    Args:
        tenants: those that have an entry in `rows`.
        rows: of each tenant, by its name.
    """
    begin = dict.fromkeys(rows, 0)
    while any(begin[name] < len(rows[name]) for name in rows):
        portions = []
        for tenant in tenants:
            start = begin[tenant.name]
            begin[tenant.name] = start + tenant.config.evaluation.batch_size
            if part := tuple(rows[tenant.name][start : begin[tenant.name]]):
                portions.append(Portion(tenant.name, part))
        yield portions


def alike_prompts(
    together: Literal["any", "one length", "none"], rows: Mapping[str, Sequence[int]], lengths: np.ndarray
) -> Iterator[Mapping[str, Sequence[int]]]:
    """Yield the rows whose prompts may be continued in one batch.

    Args:
        together: which prompts these are.
        rows: of each trial.
        lengths: `[rows of the table]` of the prompts, up to a constant.
    """
    match together:
        case "any":
            yield rows
        case "one length":
            for length in sorted({int(lengths[row]) for wanted in rows.values() for row in wanted}):
                yield {name: [r for r in wanted if lengths[r] == length] for name, wanted in rows.items()}
        case "none":
            for name, wanted in rows.items():
                for row in wanted:
                    yield {name: [row]}
