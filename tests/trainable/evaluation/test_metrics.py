"""Metric families and the overall score, against values computed otherwise; saying nothing never pays."""

from pathlib import Path

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from tests.support.weather import weather_evaluation
from trainable.config import EvaluationConfig
from trainable.errors import ConfigError
from trainable.evaluation import (
    Prediction,
    read_predictions,
    score,
    score_rows,
    write_predictions,
)
from trainable.evaluation.catalogue import load_family
from trainable.evaluation.nlg import nlg_metrics
from trainable.evaluation.text import readability, text_metrics
from trainable.weather.metrics import weather_metrics

TEXTS = [
    "Mostly sunny. High 9°C, low 2°C. North wind 10 to 20 km/h. Dry.",
    "Rain in the evening. High -1°C, low -7°C. Calm wind.",
]


def count_words(predictions: list[str], references: list[str]) -> dict[str, float]:
    """A user's own metric family."""
    return {"mine/words": sum(len(text.split()) for text in predictions) / len(references)}


def test_a_perfect_prediction_scores_one() -> None:
    found = score(TEXTS, TEXTS, weather_evaluation())
    for key in ("nlg/bleu_score", "nlg/rouge_1_f", "nlg/rouge_l_f", "weather/temperature_accuracy"):
        assert found[key] == pytest.approx(1)
    assert found["weather/precipitation_accuracy"] == 1
    assert found["weather/temperature_mae"] == found["weather/wind_speed_mae"] == 0
    assert found["weather/temperature_coverage"] == found["weather/wind_speed_coverage"] == 1
    assert found["eval/length_similarity"] == 1


def test_saying_nothing_is_missing_and_not_right() -> None:
    found = score(["", ""], TEXTS, weather_evaluation())
    assert "weather/temperature_mae" not in found
    assert "weather/wind_speed_mae" not in found
    for key in (
        "temperature_accuracy",
        "precipitation_accuracy",
        "temperature_coverage",
        "wind_speed_coverage",
    ):
        assert found[f"weather/{key}"] == 0
    assert found["eval/overall_score"] == 0


@given(st.lists(st.tuples(st.text(max_size=60), st.text(max_size=60)), min_size=1, max_size=4))
def test_scores_stay_in_their_range_whatever_is_written(pairs: list[tuple[str, str]]) -> None:
    found = score([a for a, _ in pairs], [b for _, b in pairs], weather_evaluation())
    for key, value in found.items():
        assert value >= 0
        if key.startswith(("nlg/", "eval/")) or key.endswith(("accuracy", "coverage")):
            assert value <= 1 + 1e-9


def test_endless_digits_are_no_number() -> None:
    digits = "9" * 400
    found = weather_metrics([f"High {digits}°C. Wind {digits} km/h."], [f"High 9°C, low {digits}0s°C."])
    assert found["weather/temperature_coverage"] == 0
    assert "weather/temperature_mae" not in found


def test_the_overall_score_is_the_weighted_mean() -> None:
    weights = {"nlg/bleu_score": 3.0, "eval/length_similarity": 1.0, "mine/absent": 4.0}
    found = score(["Rain tonight."], [TEXTS[1]], EvaluationConfig(overall_weights=weights))
    # No family has `mine/absent`, so its weight is left out.
    expected = (3 * found["nlg/bleu_score"] + found["eval/length_similarity"]) / 4
    assert found["eval/overall_score"] == pytest.approx(expected)


def test_bleu_is_sacrebleus() -> None:
    predictions = ["Mostly sunny. High 9°C, low 3°C. North wind 10 to 20 km/h. Dry.", "Snow in the evening."]
    expected = sacrebleu.corpus_bleu(predictions, [TEXTS]).score / 100
    assert 0 < expected < 1
    assert nlg_metrics(predictions, TEXTS)["nlg/bleu_score"] == pytest.approx(expected)


def test_rouge_of_a_known_pair() -> None:
    found = nlg_metrics(["the wind is calm"], ["the wind was calm today"])
    assert found["nlg/rouge_1_f"] == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))
    assert found["nlg/rouge_2_f"] == pytest.approx(2 * (1 / 3) * (1 / 4) / (1 / 3 + 1 / 4))


@pytest.mark.parametrize(
    ("prediction", "mae", "accuracy", "coverage"),
    [
        ("High 11°C, low 2°C.", 1.0, 1.0, 1.0),
        ("High 14°C, low 2°C.", 2.5, 0.5, 1.0),
        ("High 9°C.", 0.0, 0.5, 0.5),
        ("High 2°C, low 9°C.", 7.0, 0.0, 1.0),
    ],
)
def test_temperatures_are_compared_high_with_high(
    prediction: str, mae: float, accuracy: float, coverage: float
) -> None:
    found = weather_metrics([prediction], ["High 9°C, low 2°C."])
    assert found["weather/temperature_mae"] == pytest.approx(mae)
    assert found["weather/temperature_accuracy"] == accuracy
    assert found["weather/temperature_coverage"] == coverage


def test_units_are_converted_before_comparing() -> None:
    found = weather_metrics(["High near 50. Wind 10 mph."], ["High 10°C. Wind 16 km/h."])
    assert found["weather/temperature_mae"] == pytest.approx(0, abs=0.01)
    assert found["weather/wind_speed_mae"] == pytest.approx(0.093, abs=0.01)


def test_a_prediction_without_a_unit_has_the_references() -> None:
    assert weather_metrics(["High near 50."], ["High 50°F."])["weather/temperature_mae"] == pytest.approx(0)
    references = ["High near 40. Wind 10 mph.", "High near 40."]
    found = weather_metrics(["High 40°F.", "High 40°F."], references)
    assert found["weather/temperature_mae"] == pytest.approx(0)
    found = weather_metrics(["sw 10-14", "sw 10-14"], ["sw 10-14 kt", "sw 14-18"])
    assert found["weather/wind_speed_mae"] == pytest.approx(2 * 1.852)


@pytest.mark.parametrize(
    ("prediction", "coverage", "accuracy"),
    [
        ("High 9°C, low 2°C.", 0.5, 0.5),
        ("High 9°C, 11°C, 13°C, 15°C.", 0.25, 0.25),
        ("Temperature near 9°C.", 1, 1),
        ("Low 9°C.", 0, 0),
    ],
)
def test_what_the_reference_does_not_state_is_counted(
    prediction: str, coverage: float, accuracy: float
) -> None:
    found = weather_metrics([prediction], ["High 9°C."])
    assert found["weather/temperature_coverage"] == coverage
    assert found["weather/temperature_accuracy"] == accuracy


def test_gusts_and_chances_have_errors_of_their_own() -> None:
    found = weather_metrics(
        ["Wind 10 km/h, gusts 40. Rain likely (60%).", "Wind 10 km/h, gusts 40."],
        ["Wind 10 km/h, gusts 50. Rain likely (70%).", "Wind 10 km/h."],
    )
    assert found["weather/wind_speed_mae"] == 0
    assert found["weather/wind_gust_mae"] == pytest.approx(10)
    assert found["weather/wind_gust_coverage"] == 0.5
    assert found["weather/precipitation_chance_mae"] == pytest.approx(10)


@pytest.mark.parametrize(
    ("prediction", "reference", "accuracy"),
    [
        ("Rain.", "Rain likely.", 1),
        ("Snow.", "Rain likely.", 0),
        ("Snow.", "Precipitation likely.", 1),
        ("Precipitation likely.", "Rain.", 0),
        ("Sunny.", "Rain.", 0),
        ("Dry.", "No rain.", 1),
        ("Sunny.", "Dry.", 0),
        ("Rain.", "Sunny.", 0),
        ("Sunny.", "Sunny.", None),
        ("Dry.", "Sunny.", None),
    ],
)
def test_the_verdict_on_precipitation(prediction: str, reference: str, accuracy: float | None) -> None:
    found = weather_metrics([prediction], [reference])
    assert found.get("weather/precipitation_accuracy") == accuracy


@pytest.mark.parametrize(
    ("text", "ease"),
    [
        # 6 words, 1 sentence, 6 syllables: 206.835 - 1.015 * 6 - 84.6 = 116.1, clamped.
        ("The cat sat on the mat.", 1.0),
        # 2 words, 1 sentence, 10 syllables.
        ("Extraordinary precipitation.", 0.0),
        # 4 words, 2 sentences, 7 syllables: 206.835 - 2.03 - 148.05.
        ("Sunny today. Rainy night.", 0.5676),
        ("", 0.0),
    ],
)
def test_readability_is_flesch(text: str, ease: float) -> None:
    assert readability(text) == pytest.approx(ease, abs=1e-3)


def test_length_and_diversity() -> None:
    found = text_metrics(["rain rain rain"], ["rain and snow and ice today"])
    assert found["eval/length_similarity"] == pytest.approx(0.5)
    assert found["eval/vocabulary_diversity"] == pytest.approx(1 / 3)


def test_a_family_of_the_users_own_is_named_by_module_and_function() -> None:
    name = "tests.trainable.evaluation.test_metrics:count_words"
    found = score(["a b c"], ["x"], EvaluationConfig(metrics=[name], overall_weights={"mine/words": 1}))
    assert found == {"mine/words": 3, "eval/overall_score": 3, "eval/overall_ceiling": 1}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nlq", "unknown family 'nlq'.*Did you mean 'nlg'.*package.module:function"),
        ("no_such_module:f", "'no_such_module:f' cannot be imported"),
        ("trainable.records:nothing", "cannot be imported"),
        ("trainable.records:STEP", "is not a function"),
    ],
)
def test_a_wrong_family_is_told(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_family(name)


def test_predictions_are_kept_row_by_row(tmp_path: Path) -> None:
    pairs = [Prediction("in", TEXTS[0], TEXTS[0]), Prediction("in", "", TEXTS[1])]
    rows = score_rows(pairs, weather_evaluation())
    assert rows[0].scores["nlg/bleu_score"] == pytest.approx(1)
    assert rows[1].scores["weather/temperature_accuracy"] == 0
    write_predictions(tmp_path / "p.jsonl", rows)
    assert read_predictions(tmp_path / "p.jsonl") == rows
    assert [path.name for path in tmp_path.iterdir()] == ["p.jsonl"]
    assert Prediction("a", "b", "c").scores == {}
