"""What becomes of a metrics record in a run: one row of plain values, and rows of their own for rich ones.

A plain value never depends on a rich one. Histograms and the table of predictions are logged in separate
rows; if one of them fails, it alone is missing.
"""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import wandb
from wandb.sdk.wandb_run import Run

from trainable import records
from trainable.config import WandbConfig
from trainable.errors import nearest
from trainable.evaluation.catalogue import Catalogue
from trainable.tracking.artifacts import log_table

_ALWAYS = (records.STEP, records.FUSED_WIDTH, records.WAITING, records.ATTEMPT)
"""Keys that `wandb.include` and `wandb.exclude` do not apply to."""
_RICH = (records.HISTOGRAMS, records.PREDICTIONS)


def unknown_metrics(config: WandbConfig, catalogue: Catalogue) -> str | None:
    """Return a warning if `custom_metrics` names a metric that the catalogue does not have; else `None`."""
    known = {key.rpartition("/")[2] for key in catalogue.metrics}
    strange = [name for name in config.custom_metrics if name.rpartition("/")[2] not in known]
    if not strange:
        return None
    return (
        f"wandb.custom_metrics: no configured metric is called '{strange[0]}'.{nearest(strange[0], known)} "
        "It becomes a column of the runs table if a metric family of your own returns it."
    )


def is_wanted(key: str, config: WandbConfig) -> bool:
    """Return whether a metric is logged, by the patterns of `wandb.include` and `wandb.exclude`."""
    if key.startswith(records.OF_DEVICE) and not config.log_system_metrics:
        return False
    included = not config.include or any(fnmatch.fnmatchcase(key, pattern) for pattern in config.include)
    return included and not _is_excluded(key, config)


def without_excluded(values: Mapping[str, Any], config: WandbConfig, prefix: str = "") -> dict[str, Any]:
    """Return a run's configuration without nulls, empty sections, and what `wandb.exclude` matches.

    A null breaks the grouping of runs in W&B's table; keys are matched by their dotted path.
    """
    kept: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if value is None or _is_excluded(path, config):
            continue
        plain = without_excluded(value, config, f"{path}.") if isinstance(value, Mapping) else value
        if plain != {}:
            kept[key] = plain
    return kept


def _is_excluded(key: str, config: WandbConfig) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in config.exclude)


class RunLog:
    """Turns metrics records into a run's rows, histograms, tables and columns."""

    def __init__(
        self,
        run: Run,
        config: WandbConfig,
        catalogue: Catalogue,
        on_error: Callable[[str, Exception], None],
    ) -> None:
        """Log to `run` what `config` asks for.

        Args:
            run: W&B's.
            config: which columns, histograms and predictions.
            catalogue: which way each metric points.
            on_error: is called with what could not be logged, if it is not a plain value.
        """
        self.run = run
        self._config = config
        self._catalogue = catalogue
        self._on_error = on_error
        self._columns = {name.rpartition("/")[2] for name in config.custom_metrics}
        self._defined: set[str] = set()

    def log(self, row: Mapping[str, Any]) -> None:
        """Log a row; the best value so far of a custom metric is its summary, and so its column.

        A metric without a known direction has its last value there.
        """
        for key in row.keys() - self._defined:
            if "/" in key and key.rpartition("/")[2] in self._columns and not key.startswith("test/"):
                self.run.define_metric(
                    key, step_metric=records.STEP, summary=self._catalogue.direction(key) or "last"
                )
                self._defined.add(key)
        self.run.log(
            {key: value for key, value in row.items() if key in _ALWAYS or is_wanted(key, self._config)}
        )

    def log_record(self, record: records.MetricsRecord) -> None:
        """Log a record that is filtered for tracking: histograms, plain values, predictions."""
        for seen in record.get(records.HISTOGRAMS, ()):
            try:
                self.run.log(_histograms(seen))
            except Exception as error:
                self._on_error("log histograms", error)
        self.log({key: value for key, value in record.items() if key not in _RICH})
        if record.get(records.PREDICTIONS) and self._config.log_predictions:
            rows = record[records.PREDICTIONS][: self._config.num_predictions]
            self.log_table(predictions_table(rows), records.PREDICTIONS, record.step)

    def log_table(self, table: wandb.Table, key: str, step: int | None) -> None:
        """Log a table in a row of its own."""
        try:
            log_table(self.run, table, key, step)
        except Exception as error:
            self._on_error(f"log the table '{key}'", error)


def predictions_table(rows: Sequence[Mapping[str, Any]]) -> wandb.Table:
    """Return predictions (as objects) as a table: prompt, prediction, reference and each score."""
    keys = sorted({key for row in rows for key in row["scores"]})
    table = wandb.Table(columns=["prompt", "prediction", "reference", *keys])
    for row in rows:
        table.add_data(row["prompt"], row["prediction"], row["reference"], *map(row["scores"].get, keys))
    return table


def _histograms(seen: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {records.STEP: seen[records.STEP]}
    for what in ("gradients", "parameters"):
        for kind, found in seen.get(what, {}).items():
            edges = np.linspace(found["low"], found["high"], len(found["counts"]) + 1)
            row[f"{what}/{kind}"] = wandb.Histogram(np_histogram=(found["counts"], edges))
    return row
