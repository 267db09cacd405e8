"""The searcher and its scheduler behind a real Ray Tune, which calls them in its own order."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
from optuna.trial import TrialState
from ray import tune as ray_tune

from search_spaces import Space
from trainable.config import TrialConfig
from trainable.objective import Objective
from trainable.records import JUDGED
from tune.search.schedulers import make_scheduler
from tune.search.searcher import OptunaSearcher
from tune.sections import SearchConfig
from tune.store.study import StudyStore

pytestmark = pytest.mark.ray
STEPS = 4
LOSSES = [1.0, 5.0, 1.0, 1.0, 0.5]
"""Of the trials by number; the second is the weak one, the third diverges and the fourth dies."""


def train(config: dict[str, Any]) -> None:
    """Be told to train, and do as LOSSES says."""
    number = config["number"]
    assert TrialConfig.model_validate(config["trial"]).lora.r == config["params"]["lora.r"]
    for step in range(1, STEPS + 1):
        if number == 2 and step == 2:
            ray_tune.report({"step": step, "trial_state": "diverged", "reason": "train/loss is nan"})
            return
        if number == 3 and step == 2:
            raise RuntimeError("the device is lost")
        state = "completed" if step == STEPS else "running"
        loss = LOSSES[number] + 1 / step
        ray_tune.report({"step": step, "trial_state": state, "eval/loss": loss, JUDGED: loss})


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, optuna.Study]]:
    """The study that each scheduler leaves behind."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        yield {name: search(name, tmp_path_factory.mktemp(name)) for name in ("asha", "median")}
    finally:
        ray.shutdown()


def search(scheduler: str, folder: Path) -> optuna.Study:
    config = SearchConfig(
        scheduler=scheduler, grace_ratio=0.25, reduction_factor=2, num_trials=len(LOSSES), startup_trials=2
    )
    study = StudyStore.create(folder / "study.journal", scheduler, Objective("eval/loss", "min"))
    searcher = OptunaSearcher(
        Space.load("lora", TrialConfig()),
        TrialConfig(),
        study,
        config,
        new_trials=config.num_trials,
    )
    ray_tune.Tuner(
        train,
        tune_config=ray_tune.TuneConfig(
            search_alg=searcher,
            scheduler=make_scheduler(config, Objective("eval/loss", "min"), STEPS),
            num_samples=-1,
            max_concurrent_trials=1,
            reuse_actors=True,
        ),
        run_config=ray_tune.RunConfig(name=scheduler, storage_path=str(folder), verbose=0),
    ).fit()
    return study.study


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_every_end_is_told_as_it_was(studies: dict[str, optuna.Study], scheduler: str) -> None:
    trials = studies[scheduler].trials
    weak = (TrialState.PRUNED, "pruned") if scheduler == "asha" else (TrialState.COMPLETE, "completed")
    assert [(trial.state, trial.user_attrs["trial_state"]) for trial in trials] == [
        (TrialState.COMPLETE, "completed"),
        weak,
        (TrialState.FAIL, "diverged"),
        (TrialState.FAIL, "failed"),
        (TrialState.COMPLETE, "completed"),
    ]
    reasons = [trial.user_attrs.get("reason") for trial in trials]
    assert reasons[2] == "train/loss is nan"
    assert "ended with an error" in reasons[3]
    assert studies[scheduler].best_trial.number == 4


def test_every_step_is_known_the_last_one_included(studies: dict[str, optuna.Study]) -> None:
    trials = studies["asha"].trials
    whole = {step: pytest.approx(1 / step) for step in range(1, STEPS + 1)}
    assert {step: value - 0.5 for step, value in trials[4].intermediate_values.items()} == whole
    assert trials[4].value == 0.5 + 1 / STEPS
    assert (trials[1].intermediate_values, trials[1].value) == ({1: 6.0}, 6.0)
    assert trials[1].user_attrs["reason"] == "stopped by the scheduler at step 1"
    assert trials[2].intermediate_values == trials[3].intermediate_values == {1: 2.0}
    assert [trial.user_attrs["steps"] for trial in trials] == [4, 1, 2, 1, 4]


def test_every_trial_names_its_ray_trial_and_its_run(studies: dict[str, optuna.Study]) -> None:
    trials = studies["asha"].trials
    ids = [trial.user_attrs["ray_trial_id"] for trial in trials]
    assert len(set(ids)) == len(LOSSES)
    assert ids == [trial.user_attrs["wandb_run_id"] for trial in trials]
    assert all(trial.user_attrs["started"] < trial.user_attrs["ended"] for trial in trials)
    assert all(set(trial.user_attrs["params"]) > set() for trial in trials)
