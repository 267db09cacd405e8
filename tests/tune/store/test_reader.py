import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from trainable.errors import ConfigError, ExperimentError
from trainable.objective import Objective
from trainable.records import TrialState
from tune.config import Config
from tune.store.experiment import ExperimentStore
from tune.store.reader import TrialView, leaderboard, read


def trials_of(folder: Path) -> Sequence[TrialView]:
    return read(ExperimentStore(folder)).trials


PARAMS = {"training.learning_rate": 1e-3, "lora.r": 8}


class WrittenExperiment:
    """Writes an experiment's folder the way a search does."""

    def __init__(self, folder: Path, *, num_trials: int = 4, mode: str = "min") -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        search = {"name": folder.name, "num_trials": num_trials, "mode": mode}
        (folder / "config.yaml").write_text(Config.model_validate({"search": search}).to_yaml())
        storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
        direction = "minimize" if mode == "min" else "maximize"
        self.study = optuna.create_study(study_name=folder.name, storage=storage, direction=direction)

    def add(
        self,
        *records: dict[str, Any],
        tell: tuple[optuna.trial.TrialState, float | None] | None = None,
        **attrs: Any,
    ) -> Path:
        """Ask for a trial, log its records, and tell its end."""
        trial = self.study.ask()
        folder = self.folder / f"ray{trial.number}"
        folder.mkdir()
        for name, value in ({"ray_trial_id": folder.name, "params": PARAMS} | attrs).items():
            trial.set_user_attr(name, value)
        if records:
            (folder / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        if tell:
            self.study.tell(trial, tell[1], state=tell[0])
        return folder


@pytest.fixture
def experiment(tmp_path: Path) -> WrittenExperiment:
    return WrittenExperiment(tmp_path / "results" / "weather")


def record(step: int, loss: float | None, **more: Any) -> dict[str, Any]:
    return {"time": 100.0 + step, "step": step, "trial_state": "running", "eval/loss": loss, **more}


def view(number: int, best: float | None, state: TrialState = TrialState.COMPLETED) -> TrialView:
    metrics = {} if best is None else {"step": 1, "eval/loss": best}
    return TrialView(f"ray{number}", number, state, {}, metrics, metrics, 1, None, None, None)


def test_a_completed_trial_is_read_whole(experiment: WrittenExperiment) -> None:
    folder = experiment.add(
        record(25, 2.0),
        record(50, 1.0),
        record(75, 1.5, **{"train/loss": 0.9, "device": "cpu"}),
        tell=(optuna.trial.TrialState.COMPLETE, 1.5),
        trial_state="completed",
        wandb_run_id="ray0",
        started=90.0,
        ended=190.5,
    )
    for name, manifest in (
        ("checkpoint_000001", True),
        ("checkpoint_000002", True),
        ("checkpoint_000003", False),
    ):
        (folder / name).mkdir()
        if manifest:
            (folder / name / "manifest.json").touch()
    (trial,) = trials_of(experiment.folder)
    assert trial.to_json() == {
        "trial_id": "ray0",
        "number": 0,
        "state": "completed",
        "params": PARAMS,
        "metrics": {"step": 75, "eval/loss": 1.5, "train/loss": 0.9},
        "best_metrics": {"step": 50, "eval/loss": 1.0},
        "steps": 75,
        "duration_s": 100.5,
        "checkpoint": str(folder / "checkpoint_000002"),
        "wandb_run_id": "ray0",
        "node": None,
        "device": "cpu",
        "attempt": 1,
        "reason": None,
        "follows": None,
    }
    assert json.loads(json.dumps(trial.to_json())) == trial.to_json()


@pytest.mark.parametrize(
    ("tell", "attrs", "state"),
    [
        ((optuna.trial.TrialState.COMPLETE, 1.0), {}, TrialState.COMPLETED),
        ((optuna.trial.TrialState.PRUNED, None), {"trial_state": "pruned"}, TrialState.PRUNED),
        ((optuna.trial.TrialState.FAIL, None), {"trial_state": "diverged"}, TrialState.DIVERGED),
        ((optuna.trial.TrialState.FAIL, None), {"trial_state": "oom"}, TrialState.OOM),
        ((optuna.trial.TrialState.FAIL, None), {}, TrialState.FAILED),
        (None, {}, TrialState.RUNNING),
    ],
)
def test_the_word_for_an_end_is_the_searchers_before_optunas(
    experiment: WrittenExperiment, tell: Any, attrs: dict[str, Any], state: TrialState
) -> None:
    experiment.add(tell=tell, **attrs)
    assert trials_of(experiment.folder)[0].state is state


def test_a_trial_that_never_reported_has_no_figures(experiment: WrittenExperiment) -> None:
    experiment.add(started=90.0)
    (trial,) = trials_of(experiment.folder)
    assert (trial.metrics, trial.best_metrics, trial.steps) == ({}, {}, 0)
    assert (trial.duration_s, trial.checkpoint, trial.wandb_run_id) == (None, None, None)


def test_a_running_trials_time_ends_with_its_last_record(experiment: WrittenExperiment) -> None:
    experiment.add(record(25, 2.0), started=90.0)
    assert trials_of(experiment.folder)[0].duration_s == 35.0


def test_torn_lines_are_skipped_and_lost_values_are_not_best(experiment: WrittenExperiment) -> None:
    folder = experiment.add(record(25, 2.0), record(50, None))
    with (folder / "results.jsonl").open("a") as log:
        log.write('{"time": 175.0, "step": 75, "eval/lo')
    (trial,) = trials_of(experiment.folder)
    assert trial.metrics == {"step": 50, "eval/loss": None}
    assert trial.best_metrics == {"step": 25, "eval/loss": 2.0}


def test_mode_decides_what_best_means(tmp_path: Path) -> None:
    experiment = WrittenExperiment(tmp_path / "e", mode="max")
    experiment.add(record(25, 2.0), record(50, 1.0))
    assert trials_of(experiment.folder)[0].best_metrics["step"] == 25


def test_a_trial_that_ray_was_never_given_is_left_out(experiment: WrittenExperiment) -> None:
    experiment.add()
    experiment.study.ask()
    assert [trial.number for trial in trials_of(experiment.folder)] == [0]


def test_a_renamed_folder_is_still_read(experiment: WrittenExperiment) -> None:
    experiment.add(record(25, 2.0))
    moved = experiment.folder.rename(experiment.folder.with_name("moved"))
    assert trials_of(moved)[0].steps == 25


def test_before_the_study_there_are_no_trials(experiment: WrittenExperiment) -> None:
    (experiment.folder / "study.journal").unlink()
    assert trials_of(experiment.folder) == []
    assert not (experiment.folder / "study.journal").exists()


def test_a_broken_configuration_is_told(experiment: WrittenExperiment) -> None:
    (experiment.folder / "config.yaml").write_text("search: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        trials_of(experiment.folder)


@given(st.lists(st.none() | st.floats(-5, 5), max_size=8), st.sampled_from(["min", "max"]))
def test_leaderboard_is_best_first_with_the_scoreless_last(values: list[float | None], mode: Any) -> None:
    ranked = leaderboard(
        [view(number, value) for number, value in enumerate(values)], Objective("eval/loss", mode)
    )
    scores = [trial.best_metrics.get("eval/loss") for trial in ranked]
    finite = sorted((value for value in values if value is not None), reverse=mode == "max")
    assert scores == finite + [None] * values.count(None)
    assert all(a.number < b.number for a, b in itertools.pairwise(ranked) if a.metrics == b.metrics)


def test_status_counts_and_says_when_all_have_ended(tmp_path: Path) -> None:
    experiment = WrittenExperiment(tmp_path / "e", num_trials=2)
    experiment.add(record(25, 2.0), tell=(optuna.trial.TrialState.PRUNED, None))
    first = read(ExperimentStore(experiment.folder)).status()
    assert (first.name, first.objective.metric, first.objective.mode, first.num_trials) == (
        "e",
        "eval/loss",
        "min",
        2,
    )
    assert (first.counts, first.finished) == ({TrialState.PRUNED: 1}, False)
    experiment.add()
    assert read(ExperimentStore(experiment.folder)).status().finished is False
    experiment.study.tell(1, state=optuna.trial.TrialState.FAIL)
    last = read(ExperimentStore(experiment.folder)).status()
    assert (last.counts, last.finished) == ({TrialState.PRUNED: 1, TrialState.FAILED: 1}, True)
    assert last.best is not None
    assert last.best.number == 0


def test_status_has_no_best_without_a_score(experiment: WrittenExperiment) -> None:
    experiment.add()
    assert read(ExperimentStore(experiment.folder)).status().best is None


def test_an_experiment_is_found_by_name_and_by_path(
    experiment: WrittenExperiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = experiment.folder.parent
    assert ExperimentStore.find("weather", results).folder == experiment.folder
    assert ExperimentStore.find(str(experiment.folder), Path("elsewhere")).folder == experiment.folder
    monkeypatch.chdir(results)
    assert ExperimentStore.find("weather/", Path("elsewhere")).folder == experiment.folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wether", r"experiment 'wether' does not exist\. Did you mean 'weather'\? There: weather\."),
        ("zzz", r"'zzz' does not exist\. There: weather\. Give a name"),
    ],
)
def test_an_unknown_experiment_names_those_there_are(
    experiment: WrittenExperiment, name: str, message: str
) -> None:
    with pytest.raises(ExperimentError, match=message):
        ExperimentStore.find(name, experiment.folder.parent)


def test_an_empty_results_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"There is none in '.*nowhere' yet"):
        ExperimentStore.find("weather", tmp_path / "nowhere")


def test_the_stored_configuration_loads_to_itself(experiment: WrittenExperiment) -> None:
    assert ExperimentStore(experiment.folder).read_config().config.search.num_trials == 4
