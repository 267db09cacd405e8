"""Which rows are evaluated, how many tokens they get, and how many rows stand behind a figure."""

import numpy as np
import pytest

from trainable.config import EvaluationConfig
from trainable.evaluation import (
    Generated,
    count_rows,
    limit_note,
    metrics_of,
    new_tokens,
    sample_rows,
    score_texts,
)


class Table:
    """Three rows, of which one states a temperature."""

    references = ("High 8°C.", "Dry.", "Calm wind.")

    def prompt(self, row: int) -> str:
        return f"prompt {row}"

    def target(self, row: int) -> str:
        return self.references[row]


def test_a_sample_is_spread_over_the_table_and_the_same_every_time() -> None:
    sample = sample_rows(10_000, 200)
    assert sample == sample_rows(10_000, 200)
    assert len(set(sample)) == 200
    # The mean of 200 uniform row numbers has a standard deviation of 204.
    assert np.mean(sample) == pytest.approx(5000, abs=800)
    assert sample[:4] == [6026, 3707, 1221, 4606]


def test_a_smaller_sample_is_the_beginning_of_a_larger_one() -> None:
    assert sample_rows(50, 5) == sample_rows(50, 20)[:5]
    assert sorted(sample_rows(50, None)) == sorted(sample_rows(50, 80)) == list(range(50))


def test_texts_may_be_as_long_as_the_longest_target_unless_a_limit_is_set() -> None:
    lengths = np.array([4, 120, 9])
    assert new_tokens(EvaluationConfig(), lengths) == 120
    assert new_tokens(EvaluationConfig(max_new_tokens=7), lengths) == 7


def test_a_limit_that_truncates_is_reported_at_the_start() -> None:
    lengths = np.array([4, 120, 9])
    note = limit_note(EvaluationConfig(max_new_tokens=8), lengths)
    assert note is not None
    assert note.startswith("2 of 3 validation targets have more tokens than evaluation.max_new_tokens = 8")
    assert limit_note(EvaluationConfig(), lengths) is None
    assert limit_note(EvaluationConfig(max_new_tokens=120), lengths) is None
    assert limit_note(EvaluationConfig(max_new_tokens=8, text_metrics="never"), lengths) is None


def test_each_metric_has_the_number_of_rows_it_rests_on_and_the_rows_give_it_again() -> None:
    evaluation = EvaluationConfig(metrics=["weather", "text"])
    texts = [
        Generated(2, "Calm wind.", finished=True),
        Generated(0, "High 9°C.", finished=False),
        Generated(1, "Dry", finished=True),
    ]
    scored = score_texts(texts, Table(), evaluation)
    assert [row.prompt for row in scored.predictions] == ["prompt 2", "prompt 0", "prompt 1"]
    assert scored.metrics["eval/text_rows"] == 3
    assert scored.metrics["eval/unfinished_share"] == pytest.approx(1 / 3)
    assert [row.scores["eval/unfinished_share"] for row in scored.predictions] == [0, 1, 0]
    counts = count_rows(scored)
    assert counts["weather/temperature_mae"] == 1
    assert counts["weather/precipitation_accuracy"] == 1
    assert counts["eval/length_similarity"] == counts["eval/overall_score"] == 3
    assert metrics_of(scored.predictions, evaluation) == scored.metrics
