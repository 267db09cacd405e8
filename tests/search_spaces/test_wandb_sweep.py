"""A sweep file means in a search what it means to W&B, or is refused with what to write instead."""

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from search_spaces import Space
from search_spaces.wandb_sweep import read_sweep
from trainable.config import TrialConfig
from trainable.errors import SpaceError

GUIDE = Path(__file__).parents[2] / "config" / "sweep_config.yaml"


def write(folder: Path, **changes: Any) -> Path:
    content = {
        "method": "bayes",
        "metric": {"name": "eval/loss", "goal": "minimize"},
        "parameters": {"lora.r": {"values": [8, 16]}},
        **changes,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


def test_the_shipped_file_is_the_guides() -> None:
    sweep = read_sweep(GUIDE)
    assert sweep.settings == {
        "search.sampler": "tpe",
        "search.metric": "eval/overall_score",
        "search.mode": "max",
    }
    assert sweep.space == {
        "learning_rate": {"type": "uniform", "low": 1e-5, "high": 1e-4},
        "lora.r": {"type": "choice", "values": [16, 32, 64]},
        "lora.alpha": {"type": "choice", "values": [16, 32, 64]},
    }
    assert sweep.first_evaluation is None
    params = Space.load(dict(sweep.space), TrialConfig()).suggest(optuna.create_study().ask()).params
    assert set(params) == {"training.learning_rate", "lora.r", "lora.alpha"}


@pytest.mark.parametrize(
    ("told", "axis"),
    [
        ({"value": 3}, {"type": "constant", "value": 3}),
        ({"distribution": "constant", "value": 3}, {"type": "constant", "value": 3}),
        ({"values": [1, 2]}, {"type": "choice", "values": [1, 2]}),
        ({"values": ["a"], "probabilities": [1.0]}, {"type": "choice", "values": ["a"]}),
        ({"values": [1, 2], "probabilities": [0.5, 0.5]}, {"type": "choice", "values": [1, 2]}),
        ({"min": 1, "max": 4}, {"type": "integer", "low": 1, "high": 4}),
        ({"min": 1, "max": 4.0}, {"type": "uniform", "low": 1.0, "high": 4.0}),
        ({"min": 0.0, "max": 0.5}, {"type": "uniform", "low": 0.0, "high": 0.5}),
        ({"distribution": "uniform", "min": 1, "max": 4}, {"type": "uniform", "low": 1.0, "high": 4.0}),
        ({"distribution": "int_uniform", "min": 3, "max": 3}, {"type": "constant", "value": 3}),
        (
            {"distribution": "q_uniform", "min": 0.04, "max": 0.31, "q": 0.1},
            {"type": "uniform", "low": 0.0, "high": 0.3, "step": 0.1},
        ),
        (
            {"distribution": "q_uniform", "min": 2, "max": 9, "q": 4},
            {"type": "integer", "low": 0, "high": 8, "step": 4},
        ),
        (
            {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3},
            {"type": "log_uniform", "low": 1e-5, "high": 1e-3},
        ),
        (
            {"distribution": "log_uniform", "min": -9, "max": -5},
            {"type": "log_uniform", "low": math.exp(-9), "high": math.exp(-5)},
        ),
    ],
)
def test_each_distribution_becomes_its_axis(
    tmp_path: Path, told: dict[str, Any], axis: dict[str, Any]
) -> None:
    assert read_sweep(write(tmp_path, parameters={"lora.r": told})).space["lora.r"] == axis


def test_nested_and_dotted_names_are_one(tmp_path: Path) -> None:
    nested = {"lora": {"parameters": {"r": {"values": [8]}, "dropout": {"min": 0.0, "max": 0.1}}}}
    dotted = {"lora.r": {"values": [8]}, "lora.dropout": {"min": 0.0, "max": 0.1}}
    assert read_sweep(write(tmp_path, parameters=nested)) == read_sweep(write(tmp_path, parameters=dotted))


def test_the_scripts_flags_and_the_projects_words_become_settings(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        method="grid",
        parameters={
            "lora.r": {"values": [8]},
            "train_data": {"value": "a.json"},
            "wandb_project": {"value": "p"},
            "output_dir": {"value": "models/x"},
        },
        entity="me",
        description="words",
        run_cap=12,
        program="train_lora.py",
        command=["${env}", "python", "${program}", "${args}"],
        name="a sweep",
    )
    assert read_sweep(path).settings == {
        "search.sampler": "grid",
        "search.metric": "eval/loss",
        "search.mode": "min",
        "data.train": "a.json",
        "wandb.project": "p",
        "wandb.entity": "me",
        "wandb.notes": "words",
        "search.num_trials": 12,
    }


@pytest.mark.parametrize(
    ("told", "first", "factor"),
    [
        ({"type": "hyperband", "min_iter": 3}, 3, 3.0),
        ({"type": "hyperband", "min_iter": 3, "eta": 2}, 3, 2.0),
        ({"type": "hyperband", "max_iter": 27, "s": 2}, 3, 3.0),
        ({"type": "hyperband", "max_iter": 4, "s": 5, "eta": 2}, 1, 2.0),
    ],
)
def test_hyperband_becomes_ashas_first_rung(
    tmp_path: Path, told: dict[str, Any], first: int, factor: float
) -> None:
    sweep = read_sweep(write(tmp_path, early_terminate=told))
    assert (sweep.first_evaluation, sweep.reduction_factor) == (first, factor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "hyperopt"}, "method 'hyperopt' must be one of bayes, random, grid"),
        ({"metrics": {}}, "'metrics' is not understood. Did you mean 'metric'"),
        ({"metric": {"goal": "minimize"}}, "must have a `name`"),
        ({"metric": {"name": "eval/loss", "goal": "down"}}, "'down' must be minimize or maximize"),
        (
            {"metric": {"name": "eval/loss", "target": 0.1}},
            "metric.target has no counterpart",
        ),
        ({"early_terminate": {"type": "envelope"}}, "must have `type: hyperband`"),
        ({"early_terminate": {"type": "hyperband"}}, "needs `min_iter`, or `max_iter` and `s`"),
        ({"parameters": None}, "must be a mapping with `method`, `metric` and `parameters`"),
        ({"parameters": {"output_dir": {"value": "x"}}}, "names nothing that can be searched"),
        ({"parameters": {"lora.r": 8}}, "parameter 'lora.r' is 8; write `value: 8`"),
        ({"parameters": {"lora.r": {"min": 1}}}, "needs `values`, `value`, or `min` and `max`"),
        ({"parameters": {"lora.r": {"distribution": "uniform", "min": 1}}}, "uniform needs 'max'"),
        ({"parameters": {"lora.r": {"distribution": "unifrom"}}}, "'unifrom'. Did you mean 'uniform'"),
        ({"parameters": {"train_data": {"values": ["a", "b"]}}}, "'train_data' cannot be searched"),
        (
            {"parameters": {"lora.r": {"values": [1, 2], "probabilities": [0.1, 0.9]}}},
            "cannot draw from categorical_w_probabilities; write `values` without",
        ),
        (
            {"parameters": {"lora.r": {"distribution": "normal", "mu": 0, "sigma": 1}}},
            "cannot draw from normal; write `distribution: uniform`",
        ),
        (
            {"parameters": {"lora.r": {"distribution": "q_log_uniform_values", "min": 1, "max": 9}}},
            "cannot draw from q_log_uniform_values",
        ),
    ],
)
def test_what_cannot_be_carried_over_is_told(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        read_sweep(write(tmp_path, **changes))


@pytest.mark.parametrize("content", ["a: [", "just words", None])
def test_a_file_that_is_no_sweep_is_told(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "sweep.yaml"
    if content:
        path.write_text(content)
    with pytest.raises(SpaceError, match=r"sweep '.*sweep.yaml' (cannot be read as YAML|must be a mapping)"):
        read_sweep(path)
