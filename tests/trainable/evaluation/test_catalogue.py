"""What may be the objective of a search or a part of the overall score."""

import pytest

from trainable.errors import ConfigError
from trainable.evaluation.catalogue import FAMILIES, Catalogue
from tune.config import Config

CATALOGUE = Catalogue.of(FAMILIES)
ALWAYS = ["--evaluation.text_metrics", "always", "--evaluation.metrics", "weather,nlg,text"]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("weather/temperature_mae", "a text that states little has few errors"),
        ("weather/wind_speed_mae", "a text that states little has few errors"),
        ("weather/temperature_coverage", "whatever its value is"),
        ("eval/length_similarity", "any text of the reference's length scores 1"),
        ("eval/readability_score", "short words in short sentences score best"),
    ],
)
def test_an_objective_that_a_poor_model_can_reach_is_refused_with_the_reason(key: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"{reason}.* Search over one of .*weather/temperature_accuracy"):
        CATALOGUE.check_objective(key)


@pytest.mark.parametrize(
    "key", ["eval/loss", "eval/overall_score", "nlg/bleu_score", "weather/temperature_accuracy"]
)
def test_an_objective_that_needs_good_texts_is_allowed(key: str) -> None:
    CATALOGUE.check_objective(key)


def test_no_error_alone_is_allowed_as_the_objective() -> None:
    errors = [key for key in CATALOGUE.metrics if key.endswith("_mae")]
    assert len(errors) == 4
    assert all(CATALOGUE.metrics[key].gameable_because for key in errors)


def test_a_search_over_an_error_ends_before_it_starts() -> None:
    with pytest.raises(ConfigError, match=r"search\.metric: 'weather/temperature_mae' cannot be the obj"):
        Config.assemble(None, [*ALWAYS, "--search.metric", "weather/temperature_mae"])


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("nlg/blue_score", r"no metric is called 'nlg/blue_score'.*nlg/bleu_score"),
        ("weather/temperature_mae", "lower values are better"),
        ("eval/loss", "lower values are better"),
    ],
)
def test_a_weight_that_cannot_raise_the_score_is_refused(key: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        CATALOGUE.check_weights({key: 1.0})
