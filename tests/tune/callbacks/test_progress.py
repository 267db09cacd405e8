import contextlib
import io
import os
import pty
from collections.abc import Callable
from typing import Any

import pytest
from ray import cloudpickle
from rich.console import Console

from tests.support.snapshots import assert_shown
from trainable import records
from trainable.objective import Objective
from trainable.records import TrialState
from tune.callbacks.progress import Progress
from tune.store.reader import TrialView

PARAMS = {"training.learning_rate": 1.2e-3, "lora.r": 16, "lora.alpha": 32.0}


class Clock:
    """Time stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeTrial:
    """What `Progress` may know of a Ray trial; anything else is an AttributeError."""

    def __init__(
        self,
        number: int,
        **params: Any,
    ) -> None:
        self.trial_id = f"ray{number}"
        self.config = {"number": number, "params": PARAMS | params, "trial": {"lora": {"alpha": 8.0}}}


def record(step: int, loss: float | None = None, **more: Any) -> dict[str, Any]:
    scored = {} if loss is None else {records.EVAL_LOSS: loss}
    return {
        records.STEP: step,
        records.MAX_STEPS: 100,
        records.STATE: "running",
        records.DEVICE: "cuda:0",
        records.ATTEMPT: 1,
        records.TRAIN_TOKENS_PER_SECOND: 12_345.0,
        **scored,
        **more,
    }


class Run:
    """Drives a `Progress` through its hooks, as Ray's loop does."""

    def __init__(self, console: Console, clock: Clock, **options: Any) -> None:
        objective = Objective("eval/loss", options.pop("mode", "min"))
        defaults = {"objective": objective, "num_trials": 4, "experiment": "weather"}
        self.progress = Progress(console, clock=clock, **(defaults | options))
        self.console = console
        self.clock = clock
        self.trials: list[FakeTrial] = []

    def start(self, number: int, **params: Any) -> FakeTrial:
        trial = FakeTrial(number, **params)
        self.trials.append(trial)
        self.progress.on_trial_start(0, self.trials, trial)
        return trial

    def result(self, trial: FakeTrial, *args: Any, **more: Any) -> None:
        self.progress.on_trial_result(0, self.trials, trial, record(*args, **more))

    def complete(self, trial: FakeTrial) -> None:
        self.progress.on_trial_complete(0, self.trials, trial)

    def view(self) -> list[str]:
        with self.console.capture() as capture:
            self.console.print(self.progress.view())
        return [line.rstrip() for line in capture.get().splitlines()]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Callable[..., Run]:
    def build(width: int = 100, height: int = 24, **options: Any) -> Run:
        console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
        return Run(console, clock, **options)

    return build


def written(run: Run) -> list[str]:
    assert isinstance(run.console.file, io.StringIO)
    return run.console.file.getvalue().splitlines()


def test_without_a_terminal_each_event_is_one_plain_line(make: Callable[..., Run], clock: Clock) -> None:
    run = make(width=40)
    with run.progress:
        one, two = run.start(0), run.start(1, **{"lora.r": 8})
        clock.now += 12
        run.result(one, 25, 1.5)
        run.result(two, 25, 2.0)
        run.result(two, 50)
        run.result(one, 50, 1.25)
        run.result(one, 75, 1.3)
        run.complete(two)
        clock.now += 60
        run.result(one, 100, 1.25, trial_state="completed")
        run.complete(one)
    assert written(run) == [
        "     0s  trial 0 started: lr 1.2e-3 · r 16 · alpha 32",
        "     0s  trial 1 started: lr 1.2e-3 · r 8 · alpha 32",
        "    12s  trial 0 first score: eval/loss 1.5000 at step 25, the best so far",
        "    12s  trial 1 first score: eval/loss 2.0000 at step 25",
        "    12s  trial 0 new best: eval/loss 1.2500 at step 50",
        "    12s  trial 1 pruned: stopped by the scheduler at step 50; its best eval/loss 2.0000 at step 25 "
        "(1/4 done)",
        " 1m 12s  trial 0 completed: all 100 steps; its best eval/loss 1.2500 at step 50 (2/4 done)",
        "weather  ━━━━━━━━━━━━────────────  2/4 trials  1m 12s, about 1m 12s left",
        "  2 pending · 1 completed · 1 pruned  2.1 steps/s",
        "  best eval/loss 1.2500 by trial 0 at step 50: lr 1.2e-3 · r 16 · alpha 32",
    ]


@pytest.mark.parametrize("color", [None, "1"])
def test_plain_lines_have_no_control_characters(
    clock: Clock, color: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    if color:
        monkeypatch.setenv("FORCE_COLOR", color)
    run = Run(Console(file=io.StringIO()), clock)
    with run.progress:
        trial = run.start(0, **{"data.note": "[red]literal[/red]"})
        run.result(trial, 25, 1.0, trial_state="diverged", reason="the loss is not finite at step 25")
        run.complete(trial)
    text = "\n".join(written(run))
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "[red]literal[/red]" in text


@pytest.mark.parametrize(
    ("last", "error", "line"),
    [
        (
            record(30, trial_state="diverged", reason="the loss is NaN"),
            False,
            "trial 0 diverged: the loss is NaN",
        ),
        (record(30, trial_state="oom", reason="24 GiB are full"), True, "trial 0 oom: 24 GiB are full"),
        (record(30), True, "trial 0 failed: the trial's process ended with an error"),
        (None, True, "trial 0 failed: the trial's process ended with an error"),
        (record(30), False, "trial 0 pruned: stopped by the scheduler at step 30"),
    ],
)
def test_each_end_has_its_word_and_reason(
    make: Callable[..., Run], last: dict[str, Any] | None, error: bool, line: str
) -> None:
    run = make()
    with run.progress:
        trial = run.start(0)
        if last:
            run.progress.on_trial_result(0, run.trials, trial, last)
        end = run.progress.on_trial_error if error else run.progress.on_trial_complete
        end(0, run.trials, trial)
    assert f"     0s  {line} (1/4 done)" in written(run)


def test_the_view_at_full_width(make: Callable[..., Run], clock: Clock) -> None:
    run = make(width=140, rungs=(25, 50))
    one, two, three = run.start(0), run.start(1, **{"lora.alpha": 4.0}), run.start(2)
    run.result(one, 25, 1.5)
    run.result(two, 25, 1.75)
    run.result(three, 50, float("nan"), trial_state="diverged")
    run.complete(three)
    clock.now += 1
    run.complete(two)
    clock.now += 9
    assert run.view() == [
        "weather  ━━━━━━━━━━━━────────────  2/4 trials  10s, about 8s left",
        "  1 pending · 1 running · 1 pruned · 1 diverged  10 steps/s",
        "  best eval/loss 1.5000 by trial 0 at step 25: lr 1.2e-3 · r 16 · alpha 32",
        "",
        "  #  state               rung    step  eval/loss    best      lr   r  alpha  tok/s  device  try",
        "  0  running   ━━──────   1/2  25/100     1.5000  1.5000  1.2e-3  16     32  12.3k  cuda:0    1",
        "  1  pruned    ━━──────   0/2  25/100     1.7500  1.7500  1.2e-3  16      4      –  cuda:0    1",
        "  2  diverged  ━━━━────   2/2  50/100          –       –  1.2e-3  16     32      –  cuda:0    1",
    ]


def test_before_the_first_record_the_view_holds(make: Callable[..., Run]) -> None:
    run = make(width=100)
    assert run.view() == [
        "weather  ────────────────────────  0/4 trials  0s",
        "  4 pending",
        "  no score yet",
        "",
    ]
    run.start(0)
    assert run.view()[-1] == (
        "  0  running  ────────   0/?          –     –  1.2e-3  16     32      –       –    1"
    )


def test_a_parameter_that_is_not_searched_is_read_from_the_configuration(make: Callable[..., Run]) -> None:
    run = make()
    trial = FakeTrial(0)
    del trial.config["params"]["lora.alpha"]
    run.progress.on_trial_start(0, [trial], trial)
    assert run.view()[-1].split()[6:9] == ["1.2e-3", "16", "8"]


@pytest.mark.parametrize(("width", "height"), [(60, 10), (80, 24), (140, 40)])
def test_the_view_fits_the_terminal(make: Callable[..., Run], width: int, height: int) -> None:
    run = make(width=width, height=height, num_trials=100, rungs=(25,))
    for number in range(60):
        trial = run.start(number, **{"training.batch_size": 4, "lora.dropout": 0.05})
        run.result(trial, 25, 1.0 + number)
        if number < 50:
            run.complete(trial)
    shown = run.view()
    assert len(shown) < height
    assert max(map(len, shown)) <= width
    assert shown[-1] == f"  … and {60 - (len(shown) - 6)} more"
    assert shown[5].split()[:2] == ["50", "running"]


def test_the_latest_ends_stand_first(make: Callable[..., Run], clock: Clock) -> None:
    run = make()
    for number in (0, 1, 2):
        run.start(number)
    for number in (1, 0, 2):
        clock.now += 1
        run.complete(run.trials[number])
    assert [line.split()[0] for line in run.view()[5:]] == ["2", "0", "1"]


def test_higher_is_better_for_max(make: Callable[..., Run]) -> None:
    run = make(mode="max")
    one, two = run.start(0), run.start(1)
    run.result(one, 25, 0.5)
    run.result(two, 25, 0.75)
    run.result(one, 50, 0.7)
    assert "best eval/loss 0.7500 by trial 1 at step 25" in run.view()[2]


def test_a_trial_that_starts_again_keeps_its_best(make: Callable[..., Run]) -> None:
    run = make()
    with run.progress:
        trial = run.start(0)
        run.result(trial, 50, 1.0)
        run.progress.on_trial_recover(0, run.trials, trial)
        assert run.view()[5].split()[:2] == ["0", "pending"]
        run.progress.on_trial_start(0, run.trials, trial)
        run.result(trial, 25, 2.0, attempt=2)
    shown = written(run)
    assert "     0s  trial 0 failed at step 50 and will be started again" in shown
    assert any("trial 0 started again" in line for line in shown)
    assert not any("step 25" in line for line in shown)
    assert run.view()[5].split()[3:6] == ["25/100", "2.0000", "1.0000"]


def test_a_fault_of_the_cluster_is_told_from_a_failure(make: Callable[..., Run]) -> None:
    run = make(fault={"ray0": "its node has died"}.get)
    with run.progress:
        trial = run.start(0)
        run.result(trial, 50, 1.0)
        run.progress.on_trial_recover(0, run.trials, trial)
    line = "trial 0 was interrupted at step 50 and will be started again, which does not count as a failure: "
    assert f"     0s  {line}its node has died" in written(run)


def test_trials_that_an_earlier_run_ended_count_but_take_no_time(
    make: Callable[..., Run], clock: Clock
) -> None:
    def earlier(number: int, state: TrialState, best: float | None = None) -> TrialView:
        metrics = {} if best is None else {"step": 100, "eval/loss": best}
        return TrialView(f"ray{number}", number, state, {}, metrics, metrics, 0, None, None, None)

    ended = [earlier(0, TrialState.COMPLETED, 1.0), earlier(1, TrialState.FAILED)]
    run = make(earlier=[*ended, earlier(2, TrialState.RUNNING)])
    run.trials += [FakeTrial(number) for number in range(3)]
    run.progress.on_trial_start(1, run.trials, run.trials[2])
    run.result(run.trials[2], 50, 1.5)
    clock.now += 10
    shown = run.view()
    assert shown[0] == "weather  ━━━━━━━━━━━━────────────  2/4 trials  10s, about 30s left"
    assert shown[1] == "  1 pending · 1 running · 1 completed · 1 failed  5 steps/s"
    assert "eval/loss 1.0000 by trial 0" in shown[2]


def test_ray_can_pickle_it_while_it_shows(make: Callable[..., Run]) -> None:
    run = make()
    with run.progress:
        trial = run.start(0)
        copy = cloudpickle.loads(cloudpickle.dumps(run.progress))
        before = written(run)
        copy.on_trial_result(0, [trial], trial, record(25, 1.0))
        with copy:
            copy.on_trial_complete(0, [trial], trial)
        assert written(run) == before


class Terminal:
    """A real pseudo-terminal, with what was written to it."""

    def __init__(self) -> None:
        self._reading, writing = pty.openpty()
        self.file = os.fdopen(writing, "w", buffering=1)

    def close(self) -> str:
        self.file.close()
        text = b""
        with contextlib.suppress(OSError):  # How Linux says that the other end is closed.
            while chunk := os.read(self._reading, 65_536):
                text += chunk
        os.close(self._reading)
        return text.decode()


def test_an_interrupt_gives_the_terminal_back(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    run = Run(Console(file=terminal.file, width=80, height=24), clock)

    def search() -> None:
        with run.progress:
            healthy, broken = run.start(0), run.start(1)
            run.result(healthy, 25, 1.0)
            run.result(broken, 25, trial_state="diverged", reason="the loss is NaN")
            run.complete(broken)
            cloudpickle.dumps(run.progress)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search()
    text = terminal.close()
    hide_cursor, show_cursor = "\x1b[?25l", "\x1b[?25h"
    assert text.count(hide_cursor) == 1
    assert text.rindex(show_cursor) > text.index(hide_cursor)
    after = text[text.rindex(show_cursor) :]
    assert "1/4 trials" in after
    assert "best eval/loss" in after
    assert "trial 1 diverged: the loss is NaN (1/4 done)" in text
    assert "trial 0 started" not in text


def test_a_trial_that_never_started_can_fail(make: Callable[..., Run]) -> None:
    run = make()
    with run.progress:
        early, late = FakeTrial(0), FakeTrial(1)
        run.progress.on_trial_recover(0, [], early)
        run.progress.on_trial_error(0, [], late)
    lines = [line.partition("s  ")[2] for line in written(run)[:2]]
    assert lines[0] == "trial 0 failed at step 0 and will be started again"
    assert lines[1].startswith("trial 1 failed: the trial's process ended with an error")


def test_more_trials_than_planned_are_counted_and_none_is_owed(make: Callable[..., Run]) -> None:
    run = make(num_trials=1)
    for number in range(2):
        run.complete(run.start(number))
    assert "2/2 trials" in run.view()[0]
    assert "pending" not in run.view()[1]


@pytest.mark.parametrize("width", [80, 140])
def test_what_a_search_shows_of_itself(make: Callable[..., Run], clock: Clock, width: int) -> None:
    run = make(width=width, rungs=(25, 50), num_trials=6)
    with run.progress:
        trials = [run.start(number, **{"lora.r": 2 ** (1 + number)}) for number in range(4)]
        clock.now += 30
        for trial, loss in zip(trials, (1.5, 2.0, 1.8, None), strict=True):
            run.result(trial, 25, loss)
        run.complete(trials[1])
        clock.now += 30
        run.result(trials[2], 50, 1.4)
        run.result(trials[3], 30, None, trial_state="diverged", reason="the loss is not finite")
        run.complete(trials[3])
        shown = "\n".join(run.view())
    assert_shown(f"search-{width}", shown)
