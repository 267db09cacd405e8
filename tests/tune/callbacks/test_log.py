import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainable import records
from tune.callbacks.log import TrialLog
from tune.store.experiment import ExperimentStore


def write(folder: Path, *results: dict[str, Any], now: float = 12.5) -> bytes:
    """Send results of the trial `t1` through the callback, and return its log."""
    log = TrialLog(ExperimentStore(folder), clock=lambda: now)
    for result in results:
        log.on_trial_result(1, [], SimpleNamespace(trial_id="t1"), result)
    return (folder / "t1" / "results.jsonl").read_bytes()


def test_a_record_is_one_line_without_what_ray_added(tmp_path: Path) -> None:
    record = {
        records.STEP: 25,
        records.MAX_STEPS: 300,
        records.STATE: "running",
        records.DEVICE: "cpu",
        records.ATTEMPT: 1,
        records.FUSED_WIDTH: 3.5,
        records.EVAL_LOSS: 1.25,
        "my/metric": 2,
        "training_iteration": 1,
    }
    of_ray = {"pid": 7, "done": False, "config": {"trial": {}}, "hostname": "h", "time_total_s": 3.0}
    assert json.loads(write(tmp_path, record | of_ray)) == {"time": 12.5, **record}


def test_lines_are_appended_across_callbacks(tmp_path: Path) -> None:
    write(tmp_path, {"step": 1}, {"step": 2})
    lines = write(tmp_path, {"step": 3}).decode().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_a_torn_line_does_not_swallow_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "t1").mkdir()
    (tmp_path / "t1" / "results.jsonl").write_bytes(b'{"step": 1}\n{"step": 2, "ev')
    lines = write(tmp_path, {"step": 2}).splitlines()
    assert len(lines) == 3
    assert json.loads(lines[-1])["step"] == 2


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (float("nan"), None),
        (float("-inf"), None),
        (np.float32("nan"), None),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (True, True),
        ("Grüße", "Grüße"),
    ],
)
def test_values_become_what_json_has(tmp_path: Path, value: Any, stored: Any) -> None:
    assert json.loads(write(tmp_path, {"a/b": value}))["a/b"] == stored


@settings(max_examples=25)
@given(st.dictionaries(st.text("abc/é\n", min_size=1), st.floats() | st.integers() | st.text()))
def test_every_result_is_strict_json_on_one_line(
    tmp_path_factory: pytest.TempPathFactory, result: dict[str, Any]
) -> None:
    content = write(tmp_path_factory.mktemp("log"), result)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    assert content.count(b"\n") == 1
    assert json.loads(content, parse_constant=refuse)["time"] == 12.5


def test_the_line_is_on_the_disk_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes_at_sync: list[int] = []
    sync = os.fsync

    def spy(descriptor: int) -> None:
        sizes_at_sync.append(os.fstat(descriptor).st_size)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    content = write(tmp_path, {"step": 1})
    assert sizes_at_sync == [len(content)]


def test_a_disk_that_refuses_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "t1").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="t1"):
        write(tmp_path, {"step": 1})
