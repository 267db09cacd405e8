"""Passes lose no row with any number of worker threads, and shrink when memory runs out."""

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.engines import trial_config
from trainable.engine import Engine
from trainable.engine import token_budget as module
from trainable.engine.batching import Portion
from trainable.engine.token_budget import Passes, usable_cores

LENGTHS = np.array([10, 20, 30, 40])
PORTIONS = [Portion("a", (0, 1)), Portion("b", (2,)), Portion("c", (3, 0, 1))]
EVERY_ROW = [("a", 0), ("a", 1), ("b", 2), ("c", 3), ("c", 0), ("c", 1)]


def rows_of(portions: list[Portion]) -> list[tuple[str, int]]:
    return [(portion.owner, row) for portion in portions for row in portion.rows]


def nobody(owner: str, tokens: int) -> None:
    raise AssertionError(f"{owner} with {tokens} tokens should fit")


@pytest.fixture
def many_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MIN_WORKER_TOKENS", 1)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 1, 2})


def run(passes: Passes, work: Callable[[list[Portion]], object]) -> list[tuple[str, int]]:
    return [row for part, _ in passes.run(PORTIONS, LENGTHS, work, nobody) for row in rows_of(part)]


@pytest.mark.usefixtures("many_workers")
def test_workers_run_at_once_and_answer_in_order() -> None:
    together = threading.Barrier(3, timeout=10)
    passes = Passes(torch.device("cpu"))
    begun = itertools.count()

    def work(part: list[Portion]) -> list[tuple[str, int]]:
        if next(begun) < 3:
            together.wait()
        return rows_of(part)

    found = list(passes.run(PORTIONS, LENGTHS, work, nobody))
    assert len(found) >= 3
    assert sorted(row for part, _ in found for row in rows_of(part)) == sorted(EVERY_ROW)
    assert all(result == rows_of(part) for part, result in found)


@pytest.mark.usefixtures("many_workers")
def test_what_fails_in_one_worker_alone_is_repeated() -> None:
    tries: list[list[tuple[str, int]]] = []
    failed = threading.Event()

    def once_too_big(part: list[Portion]) -> None:
        tries.append(rows_of(part))
        if ("b", 2) in rows_of(part) and not failed.is_set():
            failed.set()
            raise torch.OutOfMemoryError

    passes = Passes(torch.device("cpu"))
    assert sorted(run(passes, once_too_big)) == sorted(EVERY_ROW)
    assert sum(("a", 0) in part for part in tries) == 1


def test_too_large_a_pass_is_halved_until_it_fits() -> None:
    def at_most_two_rows(part: list[Portion]) -> None:
        if len(rows_of(part)) > 2:
            raise torch.OutOfMemoryError

    passes = Passes(torch.device("cpu"), 1000, pass_tokens=100)
    assert sorted(run(passes, at_most_two_rows)) == sorted(EVERY_ROW)
    assert passes.max_tokens < 1000


def test_a_row_that_does_not_fit_alone_is_told_and_its_trials_rows_left_out() -> None:
    unfit: list[tuple[str, int]] = []

    def no_room_for_b(part: list[Portion]) -> None:
        if any(portion.owner == "b" for portion in part):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    passes = Passes(torch.device("cpu"))
    done = passes.run(PORTIONS, LENGTHS, no_room_for_b, lambda owner, tokens: unfit.append((owner, tokens)))
    assert sorted(row for part, _ in done for row in rows_of(part)) == sorted(
        row for row in EVERY_ROW if row[0] != "b"
    )
    assert unfit == [("b", 30)]


def test_several_rows_that_do_not_fit_at_once_end_their_trials_alone(many_workers: None) -> None:
    """Two worker threads fail with a single row each: neither can be made smaller."""
    unfit: list[str] = []

    def room_for_a(part: list[Portion]) -> None:
        if any(portion.owner != "a" for portion in part):
            raise torch.OutOfMemoryError

    done = Passes(torch.device("cpu")).run(
        [Portion("a", (0, 1)), Portion("b", (2,)), Portion("c", (2,))],
        LENGTHS,
        room_for_a,
        lambda owner, _: unfit.append(owner),
    )
    assert sorted(row for part, _ in done for row in rows_of(part)) == [("a", 0), ("a", 1)]
    assert sorted(unfit) == ["b", "c"]


def test_another_error_is_not_taken_for_lack_of_memory() -> None:
    def broken(part: list[Portion]) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run(Passes(torch.device("cpu")), broken)


def test_several_workers_compute_what_one_computes(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses() -> dict[str, list[float]]:
        engine = make_engine()
        engine.join("a", trial_config(lora={"dropout": 0.3}))
        engine.join("b", trial_config(lora={"r": 9}, training={"batch_size": 3, "seed": 1}))
        for _ in range(6):
            engine.step(["a", "b"])
        engine.evaluate(["a"])
        return {
            name: [*engine.tenant(name).window.losses, engine.evaluate([name])[name]["eval/loss"]]
            for name in "ab"
        }

    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0})
    one = losses()
    monkeypatch.setattr(module, "_MIN_WORKER_TOKENS", 1)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 1, 2})
    three = losses()
    for name in "ab":
        assert three[name] == pytest.approx(one[name], rel=1e-5)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1), ("nonsense", None), (None, None)],
)
def test_a_containers_quota_limits_the_worker_threads(
    tmp_path: Path, quota: str | None, cores: int | None
) -> None:
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(quota)
    assert usable_cores(file) == (cores or len(os.sched_getaffinity(0)))


def test_threads_are_at_most_the_cores_that_were_allotted() -> None:
    assert (
        Passes(torch.device("cpu"), max_cores=1).max_tokens * usable_cores()
        == Passes(torch.device("cpu")).max_tokens
    )
