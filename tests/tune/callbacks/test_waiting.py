"""One line says what waiting trials wait for."""

from types import SimpleNamespace
from typing import Any

from ray.tune.experiment import Trial

from tune.callbacks.waiting import Waiting

PENDING: list[Any] = [SimpleNamespace(status=Trial.PENDING), SimpleNamespace(status=Trial.PENDING)]
RUNNING: list[Any] = [SimpleNamespace(status=Trial.RUNNING), SimpleNamespace(status=Trial.PENDING)]


def test_a_wait_is_said_once_and_after_work_again() -> None:
    lines: list[str] = []
    now = [0.0]
    waiting = Waiting(lines.append, lambda: "each needs 2 CPU", clock=lambda: now[0])
    counts = []
    for second, trials in [
        (0, PENDING),
        (29, PENDING),
        (30, PENDING),
        (60, PENDING),
        (61, RUNNING),
        (80, PENDING),
    ]:
        now[0] = second
        waiting.on_step_end(0, trials)
        counts.append(len(lines))
    assert counts == [0, 0, 1, 1, 1, 1]
    now[0] = 110
    waiting.on_step_end(0, PENDING)
    assert lines == ["2 trial(s) wait for a place on the cluster: each needs 2 CPU."] * 2


def test_running_trials_leave_nothing_to_say() -> None:
    lines: list[str] = []
    now = [0.0]
    waiting = Waiting(lines.append, lambda: "", clock=lambda: now[0])
    for _ in range(10):
        now[0] += 20
        waiting.on_step_end(0, RUNNING)
        waiting.on_step_end(0, [])
    assert lines == []
