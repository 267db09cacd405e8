"""Rows come in a seeded endless stream; passes hold the budget and lose nothing."""

from collections import Counter

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


@given(wanted=portions, budget=st.integers(10, 200), seed=st.integers(0, 20))
def test_passes_hold_the_budget_and_every_row_in_order(
    wanted: list[list[int]], budget: int, seed: int
) -> None:
    lengths = np.random.default_rng(seed).integers(2, 40, 10)
    given_portions = [Portion(f"t{number}", tuple(rows)) for number, rows in enumerate(wanted)]
    passes = plan_passes(given_portions, lengths, budget)
    for planned in passes:
        rows = [row for portion in planned for row in portion.rows]
        assert rows
        assert len(rows) * max(lengths[row] for row in rows) <= budget or len(rows) == 1
    for number, rows in enumerate(wanted):
        mine = [portion for planned in passes for portion in planned if portion.owner == f"t{number}"]
        assert [row for portion in mine for row in portion.rows] == rows
        assert [p.offset for p in mine] == list(np.cumsum([0] + [len(p.rows) for p in mine])[:-1])


def test_a_wide_budget_needs_one_pass() -> None:
    wanted = [Portion("a", (0, 1)), Portion("b", (2,))]
    assert plan_passes(wanted, np.array([5, 6, 7]), 10_000) == [wanted]


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
