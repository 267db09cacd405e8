"""Which trials of a search over several objectives no other trial beats."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainable.objective import Objective


def pareto_front(records: Sequence[Mapping[str, Any]], objectives: Sequence[Objective]) -> list[int]:
    """Return the places of the records that no other record dominates, in their order.

    A record dominates another one if it is at least as good in every objective and better in one. A record
    without a value of an objective, or that violates a constraint, is on no front.
    """
    rows = [[objective.value(record) for objective in objectives] for record in records]
    places = [place for place, row in enumerate(rows) if None not in row]
    signs = np.array([objective.cost(1.0) for objective in objectives])
    costs_NK = np.array([rows[place] for place in places], dtype=float).reshape(-1, len(signs)) * signs
    return [
        place
        for place, cost_K in zip(places, costs_NK, strict=True)
        if not ((costs_NK <= cost_K).all(axis=1) & (costs_NK < cost_K).any(axis=1)).any()
    ]
