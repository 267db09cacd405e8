"""The best configurations again with other seeds: exactly those runs, and a verdict that knows noise."""

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from search_spaces import Space
from tests.support.experiments import ExperimentBuilder
from trainable.config import TrialConfig
from trainable.errors import ConfigError, ExperimentError
from trainable.objective import Objective
from trainable.records import MetricsRecord, TrialState
from tune.config import Config
from tune.read.confirmed import confirmed as shown
from tune.search.confirm import Verdict, confirmation, judge
from tune.search.searcher import OptunaSearcher
from tune.store.experiment import ExperimentStore
from tune.store.reader import ExperimentData, TrialView, read
from tune.store.study import StudyStore

SPACE = {
    "training.learning_rate": {"type": "log_uniform", "low": 1e-4, "high": 1e-2},
    "lora.r": {"type": "power_of_two", "low": 4, "high": 64},
    "lora.alpha": "2 * lora.r",
    "training.lr_scheduler": {"type": "choice", "values": ["constant", "cosine"]},
    "training.warmup_ratio": {
        "type": "uniform",
        "low": 0.0,
        "high": 0.2,
        "when": {"training.lr_scheduler": "cosine"},
    },
}


def searched(folder: Path, losses: list[float]) -> ExperimentData:
    builder = ExperimentBuilder(folder / "mine", num_trials=len(losses), space=SPACE)
    builder.searcher = builder.open(len(losses))
    for number, loss in enumerate(losses):
        trial_id = f"t{number}"
        builder.searcher.suggest(trial_id)
        record = MetricsRecord({"time": 1.0, "step": 20, "trial_state": "completed", "eval/loss": loss})
        builder.store.trial(trial_id).append(record)
        builder.searcher.on_trial_complete(trial_id, record)
    return read(builder.store, builder.config)


def runs_of(config: Config, folder: Path) -> list[dict[str, Any]]:
    """Return the configurations that a searcher gives for the confirming experiment."""
    folder.mkdir()
    space = Space.load(config.search.space, config.trial())
    study = StudyStore.create(folder / "study.journal", str(config.search.name), config.objective)
    searcher = OptunaSearcher(
        space, config.trial(), study, config.search, new_trials=config.search.num_trials
    )
    found = []
    while isinstance(suggestion := searcher.suggest(f"run-{len(found)}"), dict):
        found.append(suggestion["trial"])
    return found


def test_the_best_configurations_are_trained_with_every_new_seed_and_nothing_else(tmp_path: Path) -> None:
    data = searched(tmp_path, [0.5, 0.2, 0.4, 0.3])
    config = confirmation(data, 2, 3)
    assert (config.search.name, config.search.num_trials) == ("mine-confirm-2x3", 6)
    space = Space.load(SPACE, TrialConfig())
    best = [space.apply(data.config.trial(), data.trials[number].params) for number in (1, 3)]
    found = [TrialConfig.model_validate(run) for run in runs_of(config, tmp_path / "runs")]
    wanted = [
        one.model_copy(update={"training": one.training.model_copy(update={"seed": seed})})
        for seed in (43, 44, 45)
        for one in best
    ]
    assert found == wanted


def test_the_runs_lie_beside_the_search_in_a_store_too(tmp_path: Path) -> None:
    data = searched(tmp_path, [0.5, 0.2])
    assert confirmation(data, 1, 2).search.results_dir == tmp_path
    in_store = replace(data, store=ExperimentStore("s3://bucket/results/mine"))
    assert confirmation(in_store, 1, 2).search.results_dir == "s3://bucket/results"


def test_a_search_without_a_score_and_a_single_seed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--seeds 1: at least 2"):
        confirmation(searched(tmp_path / "a", [0.5]), 1, 1)
    empty = ExperimentBuilder(tmp_path / "none", space=SPACE)
    with pytest.raises(ExperimentError, match="no trial of 'none' has scored eval/loss"):
        confirmation(read(empty.store, empty.config), 3, 3)


def verdict_of(folder: Path, *values: list[float]) -> Verdict:
    data = searched(folder, [0.1 + number / 100 for number in range(len(values))])
    config = confirmation(data, len(values), max(map(len, values)))
    runs = runs_of(config, folder / "runs")
    views: list[TrialView] = []
    space = Space.load(config.search.space, config.trial())
    for place, run in enumerate(runs):
        params = {key: run[key.partition(".")[0]][key.partition(".")[2]] for key in space.axes}
        loss = values[place % len(values)][place // len(values)]
        scored = {} if math.isnan(loss) else {"eval/loss": loss}
        view = replace(data.trials[0], number=place, params=params, best_metrics=scored)
        views.append(replace(view, state=TrialState.COMPLETED))
    return judge(data, replace(data, trials=views), len(values))


def test_a_lead_within_the_noise_of_seeds_is_called_level(tmp_path: Path) -> None:
    verdict = verdict_of(tmp_path, [0.30, 0.34, 0.38], [0.31, 0.35, 0.39])
    assert verdict.noise == pytest.approx(0.04)
    assert verdict.lead == pytest.approx(0.01)
    # Student's t of 4 degrees of freedom is 2.776.
    assert verdict.least_lead == pytest.approx(2.776 * 0.04 * math.sqrt(2 / 3), rel=0.01)
    assert not verdict.is_clear
    assert "the two are level" in _text(verdict)


def test_a_lead_beyond_the_noise_is_called_real_whatever_the_search_saw(tmp_path: Path) -> None:
    """The search's own winner is trial 0; the new seeds say it was lucky."""
    verdict = verdict_of(tmp_path, [0.50, 0.51, 0.52], [0.30, 0.31, 0.32])
    assert verdict.configurations[0].trial.number == 1
    assert verdict.is_clear
    assert "Trial 1 leads trial 0 by 0.2000" in _text(verdict)


def test_failed_runs_are_counted_and_left_out(tmp_path: Path) -> None:
    verdict = verdict_of(tmp_path, [0.50, math.nan, 0.52], [0.30, 0.31, 0.32])
    assert [(one.failed, len(one.values)) for one in verdict.configurations] == [(0, 3), (1, 2)]


def _text(verdict: Verdict) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(shown(verdict, Objective("eval/loss", "min")))
    return " ".join(console.export_text().split())
