"""Metric families by name, the user's own included, and the overall score made of them.

A family of your own is a function in a module that the trials' processes can import, named in
`evaluation.metrics` as `package.module:function`:

    def politeness(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        polite = [text.startswith("Please") for text in predictions]
        return {"mine/politeness": sum(polite) / len(polite)}

It is called with all rows that were generated, and for the table of predictions with one row at a time. Its
keys are free, `group/name` by custom; `evaluation.overall_weights` may weight them, and `search.metric` may
name one, with `evaluation.text_metrics: always`. It returns finite floats, and leaves out a key that has no
value for these rows. It keeps no state between calls, and an exception of it fails the trial.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from trainable import records
from trainable.config import EvaluationConfig
from trainable.errors import ConfigError, nearest
from trainable.evaluation.nlg import nlg_metrics
from trainable.evaluation.text import text_metrics
from trainable.weather.metrics import weather_metrics

MetricFamily = Callable[[Sequence[str], Sequence[str]], dict[str, float]]
"""Takes as many predictions as references, in one order; returns metrics by key, such as `nlg/bleu_score`."""

FAMILIES: Mapping[str, MetricFamily] = {
    "nlg": nlg_metrics,
    "weather": weather_metrics,
    "text": text_metrics,
}
"""The shipped families by the word that names them."""


def load_families(names: Iterable[str]) -> list[MetricFamily]:
    """Return the named families.

    Raises:
        ConfigError: a name is unknown, cannot be imported, or is no function.
    """
    return [_family(name) for name in names]


def score(
    predictions: Sequence[str], references: Sequence[str], evaluation: EvaluationConfig
) -> dict[str, float]:
    """Return every metric of the configured families, and `eval/overall_score`.

    `eval/overall_score` = sum(w * m) / sum(w) over the metrics m and their weights w in
    `evaluation.overall_weights`; in [0, 1] if they are. A metric that is missing, because nothing could be
    compared, counts as 0: a text that says nothing is no good text. The shipped weights are those of the
    Weather Forecasting LoRA project.

    Args:
        predictions: generated texts.
        references: as many; the text each should have been.
        evaluation: names the families and the weights.

    Raises:
        ConfigError: a family is unknown, cannot be imported, or is no function.
    """
    found: dict[str, float] = {}
    for family in load_families(evaluation.metrics):
        found |= family(predictions, references)
    weights = evaluation.overall_weights
    total = sum(weight * found.get(key, 0.0) for key, weight in weights.items())
    return found | {records.EVAL_OVERALL: total / sum(weights.values())}


def _family(name: str) -> MetricFamily:
    if name in FAMILIES:
        return FAMILIES[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise ConfigError(
            f"evaluation.metrics: unknown family '{name}'.{nearest(name, FAMILIES)} "
            f"Allowed: {', '.join(FAMILIES)}, or `package.module:function` of your own."
        )
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"evaluation.metrics: '{name}' cannot be imported: {error}. Trials must be able to."
        ) from None
    if not callable(found):
        raise ConfigError(f"evaluation.metrics: '{name}' is no function of (predictions, references).")
    return found
