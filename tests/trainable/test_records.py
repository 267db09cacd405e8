"""Lines of a result log: records, or nothing."""

import json
from typing import Any

import pytest

from trainable.records import MetricsRecord

SOUND: dict[str, Any] = {
    "time": 1_000_000.5,
    "step": 20,
    "max_steps": None,
    "trial_state": "diverged",
    "reason": "the loss is not finite",
    "device": "cuda:0",
    "fused_width": 3.5,
    "attempt": 2,
    "eval/loss": None,
    "train/loss": 1,
    "later/key": 0.5,
    "config/data.train": ["a"],
    "unknown": {"a": 1},
}


def test_a_sound_line_is_read_as_it_was_written() -> None:
    record = MetricsRecord.parse(json.dumps(SOUND).encode())
    assert record == SOUND
    assert record is not None
    assert (record.step, record.attempt, record.state.value) == (20, 2, "diverged")


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": "20"},
        {"step": None},
        {"step": -1},
        {"step": 2.5},
        {"step": 10**30},
        {"time": None},
        {"time": "x"},
        {"time": 1e300},
        {"max_steps": [1]},
        {"trial_state": "flying"},
        {"trial_state": ["running"]},
        {"attempt": None},
        {"fused_width": "wide"},
        {"device": 3},
        {"reason": [1]},
        {"eval/loss": "low"},
        {"eval/loss": float("inf")},
        {"eval/loss": float("nan")},
    ],
    ids=str,
)
def test_a_line_with_a_value_of_the_wrong_type_is_corrupt(wrong: dict[str, Any]) -> None:
    assert MetricsRecord.parse(json.dumps(SOUND | wrong).encode()) is None


@pytest.mark.parametrize("line", [b"", b"{", b"\xff", b"[1]", b"3", b"null", b"{}", b"[" * 100_000])
def test_what_is_no_object_with_a_step_is_corrupt(line: bytes) -> None:
    assert MetricsRecord.parse(line) is None
