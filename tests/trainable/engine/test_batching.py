"""Rows come in a seeded endless stream; passes hold the budget and lose nothing."""

import math
from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.engines import FakeTable, random_table
from trainable.engine.batching import DataOrder, Portion, collate, plan_passes, target_tokens


@given(rows=st.integers(1, 30), seed=st.integers(0, 1000), cut=st.integers(0, 90))
def test_each_pass_over_the_rows_sees_each_once(rows: int, seed: int, cut: int) -> None:
    stream = DataOrder(rows, seed).slice(0, 3 * rows)
    for start in range(0, 3 * rows, rows):
        assert sorted(stream[start : start + rows]) == list(range(rows))
    # A position is all there is to it: reading from the middle continues the same stream.
    cut = min(cut, 3 * rows)
    assert DataOrder(rows, seed).slice(cut, 3 * rows) == stream[cut:]


def test_passes_and_seeds_differ() -> None:
    order = DataOrder(50, 1)
    assert order.slice(0, 50) != order.slice(50, 100)
    assert order.slice(0, 50) != DataOrder(50, 2).slice(0, 50)
    assert order.slice(0, 50) == DataOrder(50, 1).slice(0, 50)


portions = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=6)


@given(wanted=portions, budget=st.integers(10, 200), constant=st.integers(0, 300), seed=st.integers(0, 20))
def test_passes_hold_the_budget_and_every_row_once(
    wanted: list[list[int]], budget: int, constant: int, seed: int
) -> None:
    lengths = np.random.default_rng(seed).integers(2, 40, 10)
    given_portions = [
        Portion(f"t{number}", tuple(rows), tuple(range(3, 3 + len(rows))))
        for number, rows in enumerate(wanted)
    ]
    passes = plan_passes(given_portions, lengths, budget, constant)
    found = Counter()
    for planned in passes:
        rows = [row for portion in planned for row in portion.rows]
        assert len(rows) * max(lengths[row] for row in rows) <= budget or len(rows) == 1
        owners = [portion.owner for portion in planned]
        assert owners == sorted(set(owners))
        found.update((p.owner, *pair) for p in planned for pair in zip(p.rows, p.places, strict=True))
    assert found == Counter(
        (p.owner, *pair) for p in given_portions for pair in zip(p.rows, p.places, strict=True)
    )


@given(
    rows=st.lists(st.integers(1, 30), min_size=1, max_size=7),
    budget=st.integers(20, 120),
    constant=st.integers(0, 60),
)
def test_no_other_passes_cost_less(rows: list[int], budget: int, constant: int) -> None:
    def cost(passes: list[list[int]]) -> float:
        if any(len(one) * max(one) > budget and len(one) > 1 for one in passes):
            return math.inf
        return sum(constant + len(one) * max(one) for one in passes)

    lengths = np.array(rows)
    passes = plan_passes([Portion("t", tuple(range(len(rows))))], lengths, budget, constant)
    found = [[rows[row] for row in planned[0].rows] for planned in passes]
    ordered = sorted(rows)
    others = [
        [ordered[a:b] for a, b in pairwise((0, *chosen, len(rows)))]
        for number in range(len(rows))
        for chosen in combinations(range(1, len(rows)), number)
    ]
    assert cost(found) == min(cost(other) for other in others)


def test_a_wide_budget_and_a_costly_pass_need_one_pass() -> None:
    wanted = [Portion("a", (0, 1)), Portion("b", (2,))]
    assert plan_passes(wanted, np.array([5, 6, 7]), 10_000, 100) == [wanted]


@pytest.mark.parametrize(("trials", "batch_size"), [(8, 1), (8, 4), (32, 4)])
def test_rows_of_very_unlike_length_are_little_padded(trials: int, batch_size: int) -> None:
    """Lengths as of a real corpus of forecasts: 43 to 224 tokens, half of them under 86."""
    draw = np.random.default_rng(0).lognormal(np.log(86), 0.45, trials * batch_size)
    lengths = draw.clip(43, 224).astype(np.int64)
    rows = np.arange(len(lengths)).reshape(trials, batch_size)
    wanted = [Portion(f"t{number}", tuple(map(int, own))) for number, own in enumerate(rows)]
    passes = plan_passes(wanted, lengths, 1024, pass_tokens=80)
    padded = 0
    for planned in passes:
        held = lengths[[row for portion in planned for row in portion.rows]]
        padded += len(held) * held.max()
    assert lengths.sum() / padded > (0.9 if len(lengths) > 8 else 0.8)


def test_collation_marks_each_target_token_once() -> None:
    table = FakeTable((((5, 6, 7, 8), 2), ((9, 10), 1)))
    batch = collate([Portion("a", (0,)), Portion("b", (1, 0))], table, 0, torch.device("cpu"))
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [9, 10, 0, 0], [5, 6, 7, 8]]
    assert batch.target.tolist() == [7, 8, 10, 7, 8]
    assert batch.portion.tolist() == [0, 0, 1, 1, 1]
    flat = batch.input_ids.flatten()
    assert flat[batch.position + 1].tolist() == batch.target.tolist()
    assert batch.tokens == [4, 6]


@pytest.mark.parametrize("seed", range(3))
def test_target_tokens_are_those_of_the_batch(seed: int) -> None:
    table = random_table(8, seed)
    rows = (1, 3, 3, 7)
    batch = collate([Portion("a", rows)], table, 0, torch.device("cpu"))
    assert target_tokens(table, rows) == len(batch.target)
    assert Counter(batch.portion.tolist()) == {0: len(batch.target)}
