"""Spaces are checked whole before a search, and suggest only what the configuration allows."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import Space, presets
from trainable.config import TrialConfig
from trainable.errors import SpaceError

BASE = TrialConfig()


def ask(space: Space, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    return dict(space.suggest(trial).params), trial.params


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("name", presets())
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_presets_suggest_what_the_configuration_allows(name: str, seed: int) -> None:
    space = Space.load(name, BASE)
    params, asked = ask(space, seed)
    config = space.apply(BASE, params)
    assert config.training.learning_rate == params["training.learning_rate"]
    assert config.lora.r == params["lora.r"]
    assert config.lora.r & (config.lora.r - 1) == 0
    assert config.model == BASE.model
    assert ask(space, seed) == (params, asked)


def test_the_recommended_preset_fixes_alpha_and_searches_the_rest() -> None:
    params, asked = ask(Space.load("lora", BASE))
    assert params["lora.alpha"] == 32
    assert set(asked) == {"training.learning_rate", "log2(lora.r)"}
    assert 2e-5 <= params["training.learning_rate"] <= 3e-3
    assert 4 <= params["lora.r"] <= 128


@settings(max_examples=30, deadline=None)
@given(
    low=st.floats(1e-6, 1e-2),
    factor=st.floats(1.1, 1000),
    exponents=st.tuples(st.integers(0, 4), st.integers(1, 5)),
    seed=st.integers(0, 1000),
)
def test_every_axis_type_stays_in_its_range(
    low: float, factor: float, exponents: tuple[int, int], seed: int
) -> None:
    least, more = exponents
    space = Space.load(
        {
            "learning_rate": {"type": "log_uniform", "low": low, "high": low * factor},
            "lora.r": {"type": "power_of_two", "low": 2**least, "high": 2 ** (least + more)},
            "lora.alpha": {"type": "ratio", "of": "lora.r", "low": 0.5, "high": 2},
            "lora.dropout": {"type": "uniform", "low": 0.0, "high": 0.5, "step": 0.25},
            "training.batch_size": {"type": "integer", "low": 2, "high": 8, "step": 2},
            "training.lr_scheduler": {"type": "choice", "values": ["linear", "cosine"]},
            "training.gradient_accumulation_steps": {
                "type": "derived",
                "from": "training.batch_size",
                "times": 2,
                "plus": 1,
            },
            "training.weight_decay": {"type": "constant", "value": 0.1},
        },
        BASE,
    )
    params, asked = ask(space, seed)
    config = space.apply(BASE, params)
    assert low <= config.training.learning_rate <= low * factor * (1 + 1e-9)
    assert 2**least <= config.lora.r <= 2 ** (least + more)
    assert 2 ** asked["log2(lora.r)"] == config.lora.r
    assert 0.5 * config.lora.r <= config.lora.alpha <= 2 * config.lora.r
    assert config.lora.dropout in (0.0, 0.25, 0.5)
    assert config.training.batch_size in (2, 4, 6, 8)
    assert config.training.gradient_accumulation_steps == 2 * config.training.batch_size + 1
    assert config.training.lr_scheduler in ("linear", "cosine")
    assert config.training.weight_decay == 0.1
    assert "training.gradient_accumulation_steps" not in asked
    assert "training.weight_decay" not in asked


def test_a_ratio_of_powers_of_two_makes_powers_of_two() -> None:
    fields = {"type": "ratio", "of": "lora.r", "low": 0.5, "high": 4, "powers_of_two": True}
    space = Space.load({"lora.alpha": fields, "lora.r": {"type": "power_of_two", "low": 2, "high": 16}}, BASE)
    assert list(space.axes) == ["lora.r", "lora.alpha"]
    for seed in range(20):
        params, _ = ask(space, seed)
        assert params["lora.alpha"] / params["lora.r"] in (0.5, 1, 2, 4)


def test_lists_can_be_chosen() -> None:
    targets = {"type": "choice", "values": ["all-linear", ["q_proj", "v_proj"]]}
    space = Space.load({"lora.target_modules": targets}, BASE)
    found = {str(space.apply(BASE, ask(space, seed)[0]).lora.target_modules) for seed in range(20)}
    assert found == {"all-linear", "['q_proj', 'v_proj']"}


def test_a_file_is_read_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("lora.r: {type: choice, values: [1, 2]}")
    assert list(Space.load(str(path), BASE).axes) == ["lora.r"]
    path.write_text("lora.r: {type: choice")
    with pytest.raises(SpaceError, match=r"space\.yaml' cannot be read as YAML"):
        Space.load(str(path), BASE)
    path.write_text("")
    with pytest.raises(SpaceError, match="must be a mapping of keys to axes, and not empty"):
        Space.load(str(path), BASE)
    with pytest.raises(SpaceError, match=r"'lorra' is neither.*Did you mean 'lora'.*weather_quick"):
        Space.load("lorra", BASE)


@pytest.mark.parametrize(
    ("key", "fields", "told"),
    [
        ("lora.rr", {"type": "choice", "values": [1]}, r"unknown key 'lora\.rr'.*Did you mean 'lora\.r'"),
        ("search.num_trials", {"type": "constant", "value": 1}, r"unknown key 'search\.num_trials'"),
        ("lora.r", 3, r"axis 'lora\.r': 3 must be a mapping with a `type`.*power_of_two"),
        ("lora.r", {"type": "integr", "low": 1, "high": 2}, "unknown type 'integr'.*Did you mean 'integer'"),
        ("lora.r", {"type": "integer", "lo": 1, "high": 2}, "no field 'lo'.*Did you mean 'low'.*step"),
        ("lora.r", {"type": "integer", "low": 1}, "high: Field required. Fields of integer: low, high"),
        ("lora.r", {"type": "integer", "low": 4, "high": 4}, "low 4 must be below high 4"),
        ("lora.r", {"type": "integer", "low": 0, "high": 4}, r"lora\.r = 0 is not allowed"),
        ("lora.r", {"type": "power_of_two", "low": 3, "high": 8}, "low 3 must be a power of two"),
        ("learning_rate", {"type": "log_uniform", "low": 1, "high": 0.1}, "low 1.0 must be below high 0.1"),
        ("learning_rate", {"type": "log_uniform", "low": 0, "high": 0.1}, "must be above 0 on a log scale"),
        ("learning_rate", {"type": "uniform", "low": 1, "high": float("inf")}, "finite number"),
        ("lora.r", {"type": "uniform", "low": 2, "high": 8}, r"lora\.r = 3\.9\d* is not allowed"),
        ("lora.r", {"type": "uniform", "low": 2, "high": 8, "step": 1.5}, r"lora\.r = 3\.5 is not allowed"),
        ("lora.r", {"type": "integer", "low": 1, "high": 8, "step": 3}, "high 8 .* steps of 3 .* is at 7"),
        (
            "lora.dropout",
            {"type": "uniform", "low": 0.1, "high": 0.3, "step": 0.15},
            r"high 0\.3 .* the last step is at 0\.25",
        ),
        ("lora.r", {"type": "choice", "values": []}, "at least 1 item"),
        ("lora.r", {"type": "choice", "values": [8, "many"]}, r"lora\.r = 'many' is not allowed"),
        ("lora.alpha", {"type": "derived", "from": "lora.r"}, r"made from 'lora\.r', which is not an axis"),
        ("lora.alpha", {"type": "ratio", "of": "lora.r", "low": 0, "high": 1}, "must be above 0 for a ratio"),
    ],
)
def test_a_wrong_axis_is_told_with_its_valid_fields(key: str, fields: Any, told: str) -> None:
    with pytest.raises(SpaceError, match=told):
        Space.load({key: fields}, BASE)


@pytest.mark.parametrize(
    ("source", "fields", "told"),
    [
        # Whole at both ends of the source, and not between.
        (
            {"type": "integer", "low": 2, "high": 8},
            {"type": "derived", "from": "training.batch_size", "times": 0.5},
            r"training\.gradient_accumulation_steps = 1\.5 is not allowed",
        ),
        (
            {"type": "power_of_two", "low": 1, "high": 16},
            {"type": "derived", "from": "training.batch_size", "times": 0.2, "plus": 0.8},
            r"training\.gradient_accumulation_steps = 1\.2\d* is not allowed",
        ),
        (
            {"type": "power_of_two", "low": 1, "high": 8},
            {"type": "derived", "from": "training.batch_size", "plus": -1},
            r"training\.gradient_accumulation_steps = 0 is not allowed",
        ),
        (
            {"type": "power_of_two", "low": 1, "high": 8},
            {"type": "ratio", "of": "training.batch_size", "low": 0.5, "high": 2, "powers_of_two": True},
            r"training\.gradient_accumulation_steps = 0\.5 is not allowed",
        ),
        (
            {"type": "constant", "value": 4},
            {"type": "ratio", "of": "training.batch_size", "low": 1, "high": 2},
            r"training\.gradient_accumulation_steps = 5\.\d* is not allowed",
        ),
        (
            {"type": "choice", "values": [1, "4"]},
            {"type": "derived", "from": "training.batch_size"},
            r"made from 'training\.batch_size', which may be '4'",
        ),
    ],
)
def test_what_follows_from_another_axis_is_checked_before_the_search(
    source: dict[str, Any], fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(SpaceError, match=told):
        Space.load({"training.batch_size": source, "training.gradient_accumulation_steps": fields}, BASE)


def test_what_follows_and_is_whole_is_a_whole_number() -> None:
    halves = {"type": "derived", "from": "training.batch_size", "times": 0.5}
    even = {"type": "integer", "low": 2, "high": 8, "step": 2}
    space = Space.load({"training.batch_size": even, "training.gradient_accumulation_steps": halves}, BASE)
    configs = [space.apply(BASE, ask(space, seed)[0]) for seed in range(30)]
    assert {config.training.gradient_accumulation_steps for config in configs} == {1, 2, 3, 4}


def test_a_key_has_one_axis() -> None:
    rate = {"type": "constant", "value": 1e-4}
    with pytest.raises(SpaceError, match=r"'training\.learning_rate' has two axes.*'learning_rate' names it"):
        Space.load({"training.learning_rate": rate, "learning_rate": rate}, BASE)


def test_a_value_is_checked_in_the_configuration_it_is_put_into() -> None:
    space = Space.load("lora", BASE)
    base = space.apply(BASE, {"lora.dropout": 0.25, "lora.target_modules": ["q_proj"]})
    config = space.apply(base, {"lora.r": 64})
    assert (config.lora.r, config.lora.dropout, config.lora.target_modules) == (64, 0.25, ["q_proj"])
    assert base.lora.r == BASE.lora.r
    with pytest.raises(SpaceError, match=r"lora\.dropout = 1\.0 is not allowed.*less than 1"):
        space.apply(base, {"lora.dropout": 1.0})


def test_axes_made_from_each_other_are_refused() -> None:
    with pytest.raises(SpaceError, match=r"in a circle: lora\.\w+ -> lora\.\w+ -> lora\.\w+"):
        Space.load(
            {
                "lora.r": {"type": "derived", "from": "lora.alpha"},
                "lora.alpha": {"type": "derived", "from": "lora.r"},
            },
            BASE,
        )
