"""The contract that every metric family keeps, and what the overall score makes of the families."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.weather import weather_evaluation
from trainable.config import EvaluationConfig
from trainable.evaluation import score
from trainable.evaluation.catalogue import FAMILIES, Catalogue, Metric, declares, load_family

CODE = ["def f(x):\n    return x", "x = 1", "for"]
WEATHER = ["Rain tonight. High 8°C, low 3°C.", "Dry and sunny. Wind 20 km/h."]
SAMPLES = [CODE, WEATHER, ["yes", "no"], ["яблоко", "груша"], ["今日は晴れ"], ["", "yes"], ["?!"]]


@declares(Metric("mine/same", "max", ""))
def same(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return the share of exact matches: a family as a user writes it."""
    hits = [one == other for one, other in zip(predictions, references, strict=True)]
    return {"mine/same": sum(hits) / len(hits)} if hits else {}


NAMES = [*FAMILIES, f"{__name__}:same"]
ROWS = st.lists(st.tuples(st.text(max_size=40), st.text(max_size=40)), max_size=4)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)  # The first call imports the scorers.
@given(rows=ROWS)
def test_a_family_returns_the_finite_values_of_metrics_that_it_declares(
    name: str, rows: list[tuple[str, str]]
) -> None:
    family, declared = load_family(name), Catalogue.of([name]).metrics
    found = family([one for one, _ in rows], [other for _, other in rows])
    assert found.keys() <= declared.keys()
    assert all(type(value) in (int, float) and math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_family_has_no_value_without_rows(name: str) -> None:
    assert load_family(name)([], []) == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_family_keeps_no_state_and_changes_no_text(name: str) -> None:
    family, predictions, references = load_family(name), list(WEATHER), list(reversed(WEATHER))
    before = family(predictions, references)
    family(CODE, CODE)
    assert family(predictions, references) == before
    assert (predictions, references) == (WEATHER, [*reversed(WEATHER)])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("texts", SAMPLES)
def test_no_prediction_beats_the_reference(name: str, texts: list[str]) -> None:
    family, declared = load_family(name), Catalogue.of([name]).metrics
    perfect, wrong = family(texts, texts), family(["high of 3"] * len(texts), texts)
    for key, value in perfect.items():
        if key in wrong and declared[key].direction == "max":
            assert value >= wrong[key]
        elif key in wrong and declared[key].direction == "min":
            assert value <= wrong[key]


@pytest.mark.parametrize("texts", SAMPLES)
@pytest.mark.parametrize("evaluation", [EvaluationConfig(), weather_evaluation()])
def test_perfect_predictions_reach_the_ceiling(texts: list[str], evaluation: EvaluationConfig) -> None:
    found = score(texts, texts, evaluation)
    assert found["eval/overall_score"] == found["eval/overall_ceiling"]


@settings(deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_perfect_predictions_score_one_by_the_defaults_whatever_the_data(texts: list[str]) -> None:
    assert score(texts, texts, EvaluationConfig())["eval/overall_score"] == pytest.approx(1, abs=1e-9)


def test_the_ceiling_shows_what_the_readability_of_the_references_allows() -> None:
    evaluation = EvaluationConfig(metrics=["text"], overall_weights={"eval/readability_score": 1})
    hard = ["Incomprehensibilities characterize internationalization considerations."]
    found = score(["The cat sat."], hard, evaluation)
    assert found["eval/overall_ceiling"] == found["eval/readability_score"] - 1 == 0


def test_bleu_of_short_references_is_of_the_order_that_they_have() -> None:
    short = EvaluationConfig(metrics=["nlg"])
    assert score(["heavy rain"], ["heavy rain"], short)["nlg/bleu_score"] == 1
    assert 0 < score(["heavy snow"], ["heavy rain"], short)["nlg/bleu_score"] < 1


def test_what_no_reference_has_is_absent_and_not_zero() -> None:
    found = score(["rain", ""], ["", "?!"], EvaluationConfig(metrics=["nlg"]))
    assert not {"nlg/rouge_1_f", "nlg/rouge_2_f", "nlg/rouge_l_f"} & found.keys()
    one_word = score(["no", "no"], ["yes", "no"], EvaluationConfig(metrics=["nlg"]))
    assert one_word["nlg/rouge_1_f"] == 0.5
    assert "nlg/rouge_2_f" not in one_word


def test_a_metric_that_the_references_have_and_the_predictions_lack_counts_as_zero() -> None:
    weights = {"weather/temperature_coverage": 1.0, "weather/precipitation_accuracy": 3.0}
    evaluation = EvaluationConfig(metrics=["weather"], overall_weights=weights)
    found = score(["", ""], ["High 8°C.", "Rain tonight."], evaluation)
    assert found["eval/overall_score"] == 0
    assert found["eval/overall_ceiling"] == 1


def test_a_metric_that_the_rows_cannot_have_is_left_out() -> None:
    weights = {"weather/temperature_accuracy": 1.0, "weather/precipitation_accuracy": 9.0}
    evaluation = EvaluationConfig(metrics=["weather"], overall_weights=weights)
    found = score(["High 8°C.", "High 30°C."], ["High 8°C.", "High 9°C."], evaluation)
    assert found["eval/overall_score"] == found["weather/temperature_accuracy"] == 0.5


def test_weights_of_families_that_are_not_configured_do_not_count() -> None:
    found = score(["x = 1"], ["x = 1"], EvaluationConfig(overall_weights={"weather/wind_coverage": 1}))
    assert "eval/overall_score" not in found
