"""The scores of generated texts: the metrics of every configured family, and one overall score."""

import functools
from collections.abc import Mapping, Sequence

from trainable import records
from trainable.config import EvaluationConfig
from trainable.evaluation.catalogue import load_family


def score(
    predictions: Sequence[str], references: Sequence[str], evaluation: EvaluationConfig
) -> dict[str, float]:
    """Return every metric of the configured families, the overall score and its ceiling.

    `eval/overall_score` = sum(w * m) / sum(w) over the metrics m and their weights w in
    `evaluation.overall_weights`; in [0, 1] if they are. A metric that the predictions lack counts as 0 if the
    references have it when they are scored against themselves: an empty text never scores well. A metric
    that neither has cannot be scored on these rows, or is of a family that is not configured; its weight is
    left out. `eval/overall_ceiling` is the overall score of the references themselves: what perfect
    predictions would score. Both are absent if no weight is left.

    Args:
        predictions: generated texts.
        references: as many; the text each should have been.
        evaluation: names the families and the weights.

    Raises:
        ConfigError: a family is unknown, cannot be imported, or is not a function.
    """
    metrics = _score_families(predictions, references, evaluation.metrics)
    attainable = _score_references(tuple(references), tuple(evaluation.metrics))
    overall = {
        records.EVAL_OVERALL: _weighted_mean(metrics, attainable, evaluation.overall_weights),
        records.EVAL_CEILING: _weighted_mean(attainable, attainable, evaluation.overall_weights),
    }
    return metrics | {key: value for key, value in overall.items() if value is not None}


def _score_families(
    predictions: Sequence[str], references: Sequence[str], families: Sequence[str]
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name in families:
        metrics |= load_family(name)(predictions, references)
    return metrics


@functools.lru_cache(maxsize=16)
def _score_references(references: tuple[str, ...], families: tuple[str, ...]) -> Mapping[str, float]:
    """Score references against themselves; every evaluation of a search has the same ones."""
    return _score_families(references, references, families)


def _weighted_mean(
    metrics: Mapping[str, float], attainable: Mapping[str, float], weights: Mapping[str, float]
) -> float | None:
    counted = {key: weight for key, weight in weights.items() if key in metrics or key in attainable}
    total = sum(counted.values())
    return sum(weight * metrics.get(key, 0.0) for key, weight in counted.items()) / total if total else None
