"""The scores of generated texts: every configured family's metrics, and one overall score."""

from collections.abc import Sequence

from trainable import records
from trainable.config import EvaluationConfig
from trainable.evaluation.catalogue import load_family


def score(
    predictions: Sequence[str], references: Sequence[str], evaluation: EvaluationConfig
) -> dict[str, float]:
    """Return every metric of the configured families, and `eval/overall_score`.

    `eval/overall_score` = sum(w * m) / sum(w) over the metrics m and their weights w in
    `evaluation.overall_weights`; in [0, 1] if they are. A metric that is missing, because nothing could be
    compared, counts as 0, so that an empty text never scores well.

    Args:
        predictions: generated texts.
        references: as many; the text each should have been.
        evaluation: names the families and the weights.

    Raises:
        ConfigError: a family is unknown, cannot be imported, or is not a function.
    """
    metrics: dict[str, float] = {}
    for name in evaluation.metrics:
        metrics |= load_family(name)(predictions, references)
    weights = evaluation.overall_weights
    total = sum(weight * metrics.get(key, 0.0) for key, weight in weights.items())
    return metrics | {records.EVAL_OVERALL: total / sum(weights.values())}
