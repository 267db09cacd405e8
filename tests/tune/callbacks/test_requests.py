"""What is asked from another terminal happens in the running search, once, and survives a crash."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.experiments import ExperimentBuilder
from trainable.errors import ConfigError, ExperimentError, SpaceError
from tune.callbacks.interrupt import InterruptHandler
from tune.callbacks.requests import PAUSED, STOPPED, RequestHandler
from tune.cli import requests as commands
from tune.store.requests import Verb

POINT = {"training.learning_rate": 2e-4, "lora.r": 8}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def experiment(tmp_path: Path) -> ExperimentBuilder:
    return ExperimentBuilder(tmp_path / "mine", num_trials=3)


def handler(experiment: ExperimentBuilder) -> tuple[RequestHandler, InterruptHandler, Clock]:
    interrupt, clock = InterruptHandler(None, None), Clock()  # type: ignore[arg-type]
    store, searcher = experiment.store, experiment.searcher
    return RequestHandler(store.requests, searcher.enqueue, interrupt, clock=clock), interrupt, clock


def look(handled: RequestHandler, clock: Clock, trials: list[Any]) -> None:
    clock.now += 2
    handled.on_step_end(1, trials)


def test_an_enqueued_point_is_tried_next_and_once(experiment: ExperimentBuilder) -> None:
    handled, _, clock = handler(experiment)
    commands.enqueue(
        "mine", ["lora.r=8", "training.learning_rate=2e-4"], results_dir=experiment.folder.parent
    )
    look(handled, clock, [])
    look(handled, clock, [])
    found = [experiment.searcher.suggest(str(number)) for number in range(3)]
    assert [one["params"] | POINT == one["params"] for one in found] == [True, False, False]  # type: ignore[index]
    assert experiment.searcher.exhausted


def test_an_enqueued_point_outlives_the_process_that_took_it_over(experiment: ExperimentBuilder) -> None:
    handled, _, clock = handler(experiment)
    experiment.store.requests.post(Verb.ENQUEUE, POINT)
    look(handled, clock, [])
    assert experiment.store.requests.pending() == []
    after = experiment.open(1).suggest("after")
    assert after["params"] | POINT == after["params"]  # type: ignore[index]


def test_a_point_enqueued_while_nothing_runs_is_tried_on_resume_even_without_a_trial_left(
    experiment: ExperimentBuilder,
) -> None:
    experiment.store.requests.post(Verb.ENQUEUE, POINT)
    experiment.searcher = experiment.open(0)
    assert experiment.searcher.exhausted
    handler(experiment)
    first = experiment.searcher.suggest("first")
    assert first["params"] | POINT == first["params"]  # type: ignore[index]


def test_a_stopped_trial_ends_at_its_next_result_with_the_reason(experiment: ExperimentBuilder) -> None:
    handled, _, clock = handler(experiment)
    trials = [SimpleNamespace(trial_id=name, stopping_criterion={}) for name in ("a", "b")]
    experiment.begin("a", 5)
    with experiment.store.locked():
        commands.stop("mine", "0", results_dir=experiment.folder.parent)
    look(handled, clock, trials)
    assert [one.stopping_criterion for one in trials] == [{"training_iteration": 0}, {}]
    last = {"trial_state": "running", "done": True}
    handled.on_trial_result(1, trials, trials[0], last)
    assert (last["trial_state"], last["reason"]) == ("pruned", STOPPED)
    other = {"trial_state": "running", "done": True}
    handled.on_trial_result(1, trials, trials[1], other)
    assert other["trial_state"] == "running"


def test_pause_ends_the_search_as_a_person_does(experiment: ExperimentBuilder) -> None:
    handled, interrupt, clock = handler(experiment)
    with experiment.store.locked():
        commands.pause("mine", results_dir=experiment.folder.parent)
    look(handled, clock, [])
    assert interrupt.interruption is not None
    assert (interrupt.interruption.by_user, interrupt.interruption.reason) == (True, PAUSED)


def test_a_pause_that_came_too_late_does_not_end_the_next_run(experiment: ExperimentBuilder) -> None:
    experiment.store.requests.post(Verb.PAUSE)
    handled, interrupt, clock = handler(experiment)
    look(handled, clock, [])
    assert interrupt.interruption is None


def test_what_cannot_be_asked_for_is_refused(experiment: ExperimentBuilder) -> None:
    folder = experiment.folder.parent
    with pytest.raises(SpaceError, match=r"'lora.r' = 7 is not on its axis"):
        commands.enqueue("mine", ["lora.r=7"], results_dir=folder)
    with pytest.raises(ConfigError, match=r"'lora.r' must be key=value"):
        commands.enqueue("mine", ["lora.r"], results_dir=folder)
    for command in (
        lambda: commands.pause("mine", results_dir=folder),
        lambda: commands.stop("mine", "0", results_dir=folder),
    ):
        with pytest.raises(ExperimentError, match="is not running"):
            command()
    with experiment.store.locked(), pytest.raises(ExperimentError, match="no running trial '9'"):
        commands.stop("mine", "9", results_dir=folder)
    assert experiment.store.requests.pending() == []
