"""Which adapters share a span: the partition that costs least, and nothing but the partition."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest

from tests.support.engines import trial_config
from trainable.engine import Engine
from trainable.engine.batching import Portion
from trainable.engine.spans import ON_CPU, ON_GPU, Costs, Member, partition, span_seconds

WIDTH = 16


@pytest.fixture
def members(make_engine: Callable[..., Engine]) -> list[Member]:
    """Seven trials of unlike ranks, layers and rows, in the engine's order."""
    engine = make_engine()
    made = []
    for number, (targets, rank, rows) in enumerate(
        [
            (["q_proj"], 4, 1),
            (["q_proj"], 64, 1),
            ("all-linear", 4, 2),
            ("all-linear", 8, 2),
            ("all-linear", 16, 3),
            ("all-linear", 16, 1),
            ("all-linear", 200, 1),
        ]
    ):
        config = trial_config(lora={"r": rank, "target_modules": targets})
        made.append(Member(Portion(f"t{number}", tuple(range(rows))), engine.join(f"t{number}", config)))
    return made


def total(spans: list[list[Member]], costs: Costs) -> float:
    return sum(span_seconds(span, WIDTH, costs) for span in spans)


@pytest.mark.parametrize("costs", [ON_CPU, ON_GPU, Costs(1e-3, 1e-10, ragged=True)])
def test_no_other_partition_costs_less(members: list[Member], costs: Costs) -> None:
    found = partition(members, WIDTH, costs)
    assert [member for span in found for member in span] == members
    cuts = range(1, len(members))
    others = [
        [members[a:b] for a, b in zip((0, *chosen), (*chosen, len(members)), strict=True)]
        for number in range(len(members))
        for chosen in combinations(cuts, number)
    ]
    assert len(others) == 2 ** len(cuts)
    assert total(found, costs) == pytest.approx(min(total(other, costs) for other in others))


def test_launches_join_and_arithmetic_separates(members: list[Member]) -> None:
    assert len(partition(members, WIDTH, Costs(launch=1, flop=0, ragged=True))) == 1
    free_launches = partition(members, WIDTH, Costs(launch=0, flop=1, ragged=True))
    # Ranks 4 and 8 are both computed at 8.
    assert [len(span) for span in free_launches] == [1, 1, 2, 2, 1]


def test_a_device_without_grouped_products_gets_equal_rows(members: list[Member]) -> None:
    costs = replace(ON_GPU, ragged=False)
    spans = partition(members, WIDTH, costs)
    assert all(len({member.rows for member in span}) == 1 for span in spans)
    assert [member for span in spans for member in span] == members
