"""The catalogue of metrics: which way each one points, its unit, and whether it needs generated texts.

Training and loss metrics are listed here. A metric family declares its own, with `declares`:

    @declares(Metric("mine/politeness", "max", "share of texts"))
    def politeness(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        polite = [text.startswith("Please") for text in predictions]
        return {"mine/politeness": sum(polite) / len(polite)}

A family is named in `evaluation.metrics` by its name below or as `package.module:function`. It is called
with all generated texts of an evaluation, with the references in their place (what perfect texts would
score), and with each row alone (for the predictions file). It returns finite floats and leaves out a key that
has no value for these texts: undefined is not zero. It keeps no state between calls; an exception fails the
trial. The metrics of a family without a declaration have no known direction: a search over one needs an
explicit `search.mode`, and W&B shows its last value instead of its best.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from trainable import records
from trainable.errors import ConfigError, nearest
from trainable.extension import load_object
from trainable.objective import Direction


@dataclass(frozen=True)
class Metric:
    """What is known of a metric.

    Attributes:
        key: in a metrics record, such as `nlg/bleu_score`.
        direction: `min` if lower is better, `max` if higher is; `None` if neither is.
        unit: for people, such as `nats per token`.
        needs_texts: whether it is computed from generated texts.
        gameable_because: how a poor model can reach a good value, as a clause; such a metric is not an
            objective by itself. `None`: it cannot.
    """

    key: str
    direction: Direction | None
    unit: str
    needs_texts: bool = True
    gameable_because: str | None = None


class MetricFamily(Protocol):
    """Scores predictions against as many references in the same order; returns metrics by key."""

    def __call__(self, predictions: Sequence[str], references: Sequence[str], /) -> dict[str, float]:
        """Return the metrics of these texts."""
        ...


FamilyT = TypeVar("FamilyT", bound=Callable[..., dict[str, float]])

FAMILIES: Mapping[str, str] = {
    "nlg": "trainable.evaluation.nlg:nlg_metrics",
    "text": "trainable.evaluation.text:text_metrics",
    "weather": "trainable.weather.metrics:weather_metrics",
}
"""The shipped families by name; each is loaded when it is configured, as a user's own would be."""

ENGINE_METRICS = (
    Metric(records.EVAL_LOSS, "min", "nats per target token", needs_texts=False),
    Metric(records.EVAL_ROWS, None, "rows", needs_texts=False),
    Metric(records.TRAIN_LOSS, "min", "nats per target token", needs_texts=False),
    Metric(records.TRAIN_LEARNING_RATE, None, "", needs_texts=False),
    Metric(records.TRAIN_EPOCH, None, "passes over the training rows", needs_texts=False),
    Metric(records.TRAIN_GRAD_NORM, None, "", needs_texts=False),
    Metric(records.TRAIN_TOKENS_PER_SECOND, "max", "tokens per second", needs_texts=False),
    Metric(records.TRAIN_ADAPTER_PARAMETERS, "min", "trainable parameters", needs_texts=False),
)
"""What every record has, whatever the families are."""

DEVICE_METRICS = (
    Metric(records.DEVICE_SHARE, None, "share of the device", needs_texts=False),
    Metric(records.DEVICE_CPU, None, "percent of one core", needs_texts=False),
    Metric(records.DEVICE_MEMORY, None, "GB", needs_texts=False),
    Metric(records.DEVICE_BUSY, None, "percent of the time", needs_texts=False),
    Metric(records.DEVICE_POWER, None, "watts", needs_texts=False),
)
"""What the records of a search have of their device; see `trainable.engine.device_use`."""

TEXT_METRICS = (
    Metric(records.EVAL_OVERALL, "max", ""),
    Metric(records.EVAL_CEILING, None, ""),
    Metric(records.EVAL_TEXT_ROWS, None, "rows"),
    Metric(records.EVAL_UNFINISHED, None, "share of texts"),
)
"""What every record with texts has; see `trainable.evaluation.families.score`, and `Generated`."""


def declares(*metrics: Metric) -> Callable[[FamilyT], FamilyT]:
    """Attach a family's metrics to its function."""

    def attach(family: FamilyT) -> FamilyT:
        family.metrics = metrics  # type: ignore[attr-defined]
        return family

    return attach


def load_family(name: str) -> MetricFamily:
    """Return the family of a configured name.

    Raises:
        ConfigError: the name is unknown, cannot be imported, or does not name a function.
    """
    if name not in FAMILIES and ":" not in name:
        raise ConfigError(
            f"evaluation.metrics: unknown family '{name}'.{nearest(name, FAMILIES)} "
            f"Allowed: {', '.join(FAMILIES)}, or `package.module:function` of your own."
        )
    family = load_object(FAMILIES.get(name, name), "evaluation.metrics")
    if not callable(family):
        raise ConfigError(f"evaluation.metrics: '{name}' is not a function of (predictions, references).")
    return family


@dataclass(frozen=True)
class Catalogue:
    """The metrics that a configuration's records can have.

    Attributes:
        metrics: by key.
        is_complete: whether every family declares its metrics; if not, there may be others.
    """

    metrics: Mapping[str, Metric]
    is_complete: bool

    @classmethod
    def of(cls, families: Iterable[str]) -> "Catalogue":
        """Return the catalogue of the named families.

        Raises:
            ConfigError: a family is unknown or cannot be imported.
        """
        loaded = [load_family(name) for name in families]
        declared = [getattr(family, "metrics", None) for family in loaded]
        known = [
            *ENGINE_METRICS,
            *DEVICE_METRICS,
            *TEXT_METRICS,
            *(metric for metrics in declared for metric in metrics or ()),
        ]
        return cls({metric.key: metric for metric in known}, None not in declared)

    def get(self, key: str) -> Metric:
        """Return what is known of a metric; one that no family declares has no direction and needs texts.

        Raises:
            ConfigError: no configured family has such a metric; the nearest one is named.
        """
        if key in self.metrics:
            return self.metrics[key]
        if not self.is_complete:
            return Metric(key, None, "")
        raise ConfigError(
            f"no configured metric is called '{key}'.{nearest(key, self.metrics)} "
            f"Allowed: {', '.join(sorted(self.metrics))}; evaluation.metrics names the families."
        )

    def check_objective(self, key: str) -> None:
        """Refuse a metric that a model can be good at without writing good texts.

        Raises:
            ConfigError: the metric is such a one; those that can be an objective are named.
        """
        metric = self.get(key)
        if metric.gameable_because is None:
            return
        sound = [
            one.key
            for one in self.metrics.values()
            if one.direction and one.needs_texts and not one.gameable_because
        ]
        raise ConfigError(
            f"'{key}' cannot be the objective of a search: {metric.gameable_because}. "
            f"Search over one of {', '.join(sorted(sound))}; "
            f"evaluation.overall_weights says what {records.EVAL_OVERALL} combines."
        )

    def check_weights(self, weights: Mapping[str, float]) -> None:
        """Check the keys of `evaluation.overall_weights`; a shipped family need not be configured.

        Raises:
            ConfigError: no family has a metric of this name, or lower values of it are better.
        """
        for key in weights:
            metric = self.metrics.get(key) or Catalogue.of(FAMILIES).metrics.get(key)
            if metric is None and self.is_complete:
                raise ConfigError(
                    f"evaluation.overall_weights: no metric is called '{key}'.{nearest(key, self.metrics)} "
                    f"Allowed: {', '.join(sorted(self.metrics))}."
                )
            if metric is not None and metric.direction == "min":
                raise ConfigError(
                    f"evaluation.overall_weights: of '{key}' lower values are better, so it cannot raise a "
                    "score. Use an accuracy in its place."
                )

    def direction(self, key: str) -> Direction | None:
        """Return the metric's direction; `None` where it is unknown or neither is better."""
        metric = self.metrics.get(key)
        return metric.direction if metric else None
