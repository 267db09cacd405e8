"""What is suggested next depends on how earlier trials ended, and no configuration is tried twice."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import log10
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import TPESampler
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial
from ray.tune.search import Searcher

from search_spaces import Space
from trainable.config import TrialConfig
from trainable.objective import Direction, Objective
from tune.search.sampling_view import sampling_view
from tune.search.searcher import OptunaSearcher
from tune.sections import SearchConfig
from tune.store.study import StudyStore
from tune.store.study_trial import StudyTrial

METRIC = "eval/loss"
RATE, RANK = "training.learning_rate", "lora.r"
RATE_AND_RANK: dict[str, Any] = {
    RATE: {"type": "log_uniform", "low": 1e-5, "high": 1e-1},
    RANK: {"type": "power_of_two", "low": 1, "high": 128},
}
SIX: dict[str, Any] = {
    RANK: {"type": "choice", "values": [4, 8, 16]},
    "training.lr_scheduler": {"type": "choice", "values": ["linear", "cosine"]},
}

Params = Mapping[str, Any]
Trainer = Callable[[Params], dict[str, Any]]
"""Returns the last record of a trial with these parameters."""


def searcher_in(
    folder: Path, space: Mapping[str, Any], *, trials: int, **search: Any
) -> tuple[OptunaSearcher, StudyStore]:
    study = StudyStore.create(
        folder / "study.journal", "experiment", Objective(METRIC, search.get("mode", "min"))
    )
    config = SearchConfig(**{"startup_trials": 8, **search})
    return OptunaSearcher(
        Space.load(space, TrialConfig()), TrialConfig(), study, config, new_trials=trials
    ), study


def search(
    folder: Path, train: Trainer, space: Mapping[str, Any] = RATE_AND_RANK, *, trials: int, **options: Any
) -> list[Params]:
    """Run trials one after another; returns their parameters."""
    folder.mkdir(exist_ok=True)
    searcher, study = searcher_in(folder, space, trials=trials, **options)
    begin = len(study.trials())
    found = []
    for number in range(begin, begin + trials):
        suggestion = searcher.suggest(f"trial-{number}")
        if not isinstance(suggestion, dict):
            break
        found.append(suggestion["params"])
        searcher.on_trial_complete(f"trial-{number}", train(suggestion["params"]))
    return found


def distance(params: Params) -> float:
    """Return how far the learning rate is from the best one, 1e-3, in powers of ten."""
    return abs(log10(params[RATE]) + 3)


def completed(params: Params) -> dict[str, Any]:
    return {"step": 40, METRIC: distance(params), "trial_state": "completed"}


def pruned(params: Params) -> dict[str, Any]:
    return {"step": 10, METRIC: 1 + distance(params), "trial_state": "running"}


def without_large_ranks(state: str) -> Trainer:
    """Return a trainer for which larger ranks do better until they no longer train at all."""

    def train(params: Params) -> dict[str, Any]:
        if params[RANK] > 32:
            return {"step": 0, "trial_state": state, "reason": "a rank above 32"}
        return {"step": 40, METRIC: distance(params) - log10(params[RANK]), "trial_state": "completed"}

    return train


def share_of_large_ranks(folder: Path, train: Trainer, **options: Any) -> float:
    """Return the share of suggestions, random ones left out, that do not train; over two seeds."""
    found = [
        params for seed in range(2) for params in search(folder / str(seed), train, seed=seed, **options)[20:]
    ]
    return statistics.mean(params[RANK] > 32 for params in found)


@pytest.mark.parametrize("state", ["oom", "diverged", "failed"])
def test_a_region_that_does_not_train_is_not_sought(tmp_path: Path, state: str) -> None:
    """A sampler that does not see such trials takes the region for unexplored and draws little else."""
    train = without_large_ranks(state)
    assert share_of_large_ranks(tmp_path, train, trials=40) <= 0.4


def test_the_gaussian_process_avoids_what_does_not_train(tmp_path: Path) -> None:
    found = search(tmp_path, without_large_ranks("oom"), trials=12, sampler="gp", startup_trials=6)
    assert any(params[RANK] > 32 for params in found[:6])
    assert sum(params[RANK] > 32 for params in found[6:]) <= 1


@pytest.mark.parametrize("mode", ["min", "max"])
def test_enormous_losses_do_not_hide_the_good_ones_from_the_gaussian_process(
    tmp_path: Path, mode: Direction
) -> None:
    """The loss rises without bound right above the best rate, as before training diverges."""
    best = -3.0

    def cliff(params: Params) -> dict[str, Any]:
        rate = log10(params[RATE])
        loss = 1 + 0.05 * (rate - best) ** 2 + (10 ** (3 * (rate + 2.4)) if rate > -2.6 else 0)
        value = loss if mode == "min" else -loss
        return {"step": 9, METRIC: value, "trial_state": "completed"}

    nearest = []
    for seed in range(3):
        found = search(tmp_path / str(seed), cliff, trials=12, sampler="gp", seed=seed, mode=mode)
        nearest.append(min(abs(log10(params[RATE]) - best) for params in found[8:]))
    assert statistics.median(nearest) < 0.15


def middle_distance(folder: Path, train: Trainer, sampler: str, *, first: int, trials: int) -> float:
    found = search(folder / sampler, train, trials=trials, sampler=sampler, startup_trials=first)
    return statistics.median(map(distance, found[first:]))


@pytest.mark.parametrize("train", [completed, pruned], ids=["completed", "pruned"])
@pytest.mark.parametrize(("sampler", "trials"), [("tpe", 30), ("cmaes", 30), ("gp", 12)])
def test_every_sampler_learns_from_pruned_trials_as_from_completed_ones(
    tmp_path: Path, train: Trainer, sampler: str, trials: int
) -> None:
    random = middle_distance(tmp_path, train, "random", first=8, trials=30)
    assert middle_distance(tmp_path, train, sampler, first=8, trials=trials) < 0.8 * random


def test_a_range_widened_on_resume_stays_in_the_model(tmp_path: Path) -> None:
    """Optuna's joint model drops an axis whose distribution changes; here past trials follow it."""
    wider = {
        RATE: {"type": "log_uniform", "low": 1e-6, "high": 1.0},
        RANK: {"type": "power_of_two", "low": 1, "high": 256},
    }
    found = {}
    for sampler in ("random", "cmaes"):
        search(tmp_path / sampler, completed, trials=25, sampler=sampler)
        found[sampler] = search(tmp_path / sampler, completed, wider, trials=10, sampler=sampler)
    middle = {sampler: statistics.median(map(distance, params)) for sampler, params in found.items()}
    assert middle["cmaes"] < 0.5 * middle["random"]


def test_a_trial_outside_a_narrowed_range_does_not_break_the_search(tmp_path: Path) -> None:
    narrower = {**RATE_AND_RANK, RANK: {"type": "power_of_two", "low": 1, "high": 8}}
    search(tmp_path, completed, trials=10)
    assert all(params[RANK] <= 8 for params in search(tmp_path, completed, narrower, trials=4))


def end_by_error(searcher: OptunaSearcher, trial_id: str, reason: str | None) -> None:
    suggestion = searcher.suggest(trial_id)
    assert isinstance(suggestion, dict)
    searcher.on_trial_complete(trial_id, None if reason is None else {"reason": reason}, error=True)


@pytest.mark.parametrize(
    "reason",
    [
        None,
        "ray.exceptions.ActorDiedError: the actor died because its node has died",
        "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered",
        "OSError: [Errno 28] No space left on device",
    ],
)
def test_a_bad_node_neither_ends_the_search_nor_makes_a_configuration_infeasible(
    tmp_path: Path, reason: str | None
) -> None:
    searcher, study = searcher_in(tmp_path, RATE_AND_RANK, trials=6)
    for number in range(5):
        end_by_error(searcher, f"trial-{number}", reason)
    assert isinstance(searcher.suggest("next"), dict)
    assert searcher.ended_early is None
    assert not any(trial.is_infeasible for trial in study.trials())


def test_trials_that_all_raise_the_same_error_end_the_search(tmp_path: Path) -> None:
    searcher, study = searcher_in(tmp_path, RATE_AND_RANK, trials=6)
    for number in range(3):
        end_by_error(searcher, f"trial-{number}", "ValueError: no such layer")
    assert searcher.suggest("next") == Searcher.FINISHED
    assert "ValueError: no such layer" in str(searcher.ended_early)
    assert all(trial.is_infeasible for trial in study.trials())


def test_a_configuration_that_a_bad_node_ended_may_be_tried_again(tmp_path: Path) -> None:
    one = {RANK: {"type": "choice", "values": [8, 16]}}
    searcher, _ = searcher_in(tmp_path, one, trials=10, sampler="random")
    end_by_error(searcher, "lost", None)
    found = []
    while isinstance(suggestion := searcher.suggest(str(len(found))), dict):
        found.append(suggestion["params"][RANK])
        searcher.on_trial_complete(str(len(found) - 1), completed({RATE: 1e-3}))
    assert sorted(found) == [8, 16]


def test_a_running_configuration_is_not_begun_twice(tmp_path: Path) -> None:
    searcher, _ = searcher_in(tmp_path, SIX, trials=48)
    found = [searcher.suggest(str(number)) for number in range(7)]
    assert len({str(one["params"]) for one in found[:6]}) == 6
    assert found[6] == Searcher.FINISHED


def test_thousands_of_running_trials_do_not_hide_those_that_ended(tmp_path: Path) -> None:
    search(tmp_path, completed, trials=120, sampler="random")
    _, study = searcher_in(tmp_path, RATE_AND_RANK, trials=0)
    space = Space.load(RATE_AND_RANK, TrialConfig())
    known = study.trials()
    running = [
        replace(known[0], frozen=create_trial(state=OptunaState.RUNNING, params={}, distributions={}))
        for _ in range(1200)
    ]
    objectives = [Objective(METRIC, "min")]
    view = sampling_view(
        [*known, *running], space.distributions, objectives, TPESampler(), reads_constraints=True
    )
    values = [trial.value for trial in view.trials if trial.state is OptunaState.COMPLETE]
    assert values == [trial.frozen.value for trial in known]


@pytest.mark.parametrize("ended", ["completed", "diverged"])
def test_how_a_trial_fell_before_it_diverged_is_no_estimate_for_those_that_were_stopped(
    tmp_path: Path, ended: str
) -> None:
    """Three trials fall by 1 to their ends, four by 7: what a stopped one will do depends on who counts."""
    searcher, study = searcher_in(tmp_path, RATE_AND_RANK, trials=10, sampler="random")
    losses = [(3.0, 2.0, "completed")] * 3 + [(9.0, 2.0, ended)] * 4
    for number, (first, last, state) in enumerate(losses):
        trial_id = str(number)
        assert isinstance(searcher.suggest(trial_id), dict)
        searcher.on_trial_result(trial_id, {"step": 10, METRIC: first, "trial_state": "running"})
        if state == "diverged":
            searcher.on_trial_result(trial_id, {"step": 40, METRIC: last, "trial_state": "running"})
            searcher.on_trial_complete(trial_id, {"step": 50, "trial_state": "diverged"})
        else:
            searcher.on_trial_complete(trial_id, {"step": 40, METRIC: last, "trial_state": state})
    assert isinstance(searcher.suggest("stopped"), dict)
    searcher.on_trial_complete("stopped", {"step": 10, METRIC: 4.0, "trial_state": "running"})
    view = sampling_view(
        study.trials(),
        Space.load(RATE_AND_RANK, TrialConfig()).distributions,
        [Objective(METRIC, "min")],
        TPESampler(),
        reads_constraints=True,
    )
    assert view.trials[-1].value == (3.0 if ended == "diverged" else -3.0)


KNOWN = [{RATE: 2e-4, RANK: 16}, {RANK: 64}]


def test_known_points_are_tried_first_and_once(tmp_path: Path) -> None:
    found = search(tmp_path, completed, trials=3, enqueue=KNOWN)
    assert found[0] == {RATE: 2e-4, RANK: 16}
    assert found[1][RANK] == 64
    again = search(tmp_path, completed, trials=3, enqueue=KNOWN)
    assert {RATE: 2e-4, RANK: 16} not in again


def test_a_known_point_added_on_resume_is_tried_next(tmp_path: Path) -> None:
    search(tmp_path, completed, trials=2)
    assert search(tmp_path, completed, trials=1, enqueue=[{RATE: 3e-4, RANK: 4}]) == [{RATE: 3e-4, RANK: 4}]


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"target": 0.5}, "search.target is 0.5"), ({"patience": 5}, "search.patience is 5")],
)
def test_a_search_ends_when_its_target_is_reached_or_nothing_improves(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    losses = iter([3.0, 1.0, *[2.0] * 4, 0.4, *[2.0] * 40] if "target" in options else [1.0, *[2.0] * 40])
    searcher, study = searcher_in(tmp_path, RATE_AND_RANK, trials=40, sampler="random", **options)
    while isinstance(searcher.suggest(trial_id := str(len(study.trials()))), dict):
        searcher.on_trial_complete(trial_id, {"step": 4, METRIC: next(losses), "trial_state": "completed"})
    assert reason in str(searcher.ended_early)
    assert len(study.trials()) == (7 if "target" in options else 6)
    assert all(isinstance(trial, StudyTrial) and trial.state.is_terminal for trial in study.trials())
