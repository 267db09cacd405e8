"""Searches that are killed at random moments, resumed, and compared with one that was left alone."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.kills import disturbed, reference, workload

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def undisturbed(micro_base: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("kills")
    words = workload(micro_base, corpus)
    return words, folder, *reference(words, folder)


def check(undisturbed: Any, seed: int) -> None:
    words, folder, expected, seconds = undisturbed
    assert {trial["state"] for trial in expected} == {"completed", "pruned"}
    found = disturbed(words, folder, expected, seconds, seed)
    assert found.problems == [], found


def test_nothing_is_lost(undisturbed: Any) -> None:
    check(undisturbed, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 39))
def test_nothing_is_lost_at_many_more_moments(undisturbed: Any, seed: int) -> None:
    check(undisturbed, seed)
