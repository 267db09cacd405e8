"""Trials as a table with named, typed columns: what is sorted, filtered, and written to other formats.

A column is a trial's own attribute (`number`, `state`, `steps`), a parameter under its dotted key, a metric
of the last record under its key, or of the best record under `best/` and its key. `value` is the best value
of the objective. A cell without a value is `None`.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainable.errors import ConfigError
from trainable.evaluation.catalogue import ENGINE_METRICS, TEXT_METRICS, Catalogue
from trainable.objective import Objective
from tune.read.filtering import Filter, unknown_column
from tune.read.format import SHORT_NAMES
from tune.read.terminal import write_output
from tune.store.reader import ExperimentData, TrialView

if TYPE_CHECKING:
    import pyarrow

VALUE = "value"
BEST = "best/"
_OWN = ("number", "trial_id", "state", VALUE, "steps", "duration_s", "reason", "follows", "checkpoint")
_OWN_LAST = ("wandb_run_id",)
FRONT = "pareto_front"
"""Whether no other trial beats it in every objective; a column of a search over several."""
_UNITS = {
    "steps": "optimizer steps",
    "duration_s": "seconds",
    "lora.r": "dimensions",
    "training.max_steps": "optimizer steps",
    "training.batch_size": "rows",
    "training.epochs": "passes over the training rows",
}
_HEADS = {"trial": "number", "time": "duration_s"}
"""What the leaderboard calls some columns."""
_TYPES = {"number": "int64", "steps": "int64", "follows": "int64", "duration_s": "float64", VALUE: "float64"}


@dataclass(frozen=True)
class TrialTable:
    """Trials and their cells, in an order.

    Attributes:
        trials: one a row.
        rows: their cells by column; every row has every column.
        columns: the columns that are written, in order.
        units: the unit of a column that has one.
        params: the columns that are parameters.
    """

    trials: Sequence[TrialView]
    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[str]
    units: Mapping[str, str]
    params: frozenset[str]

    @classmethod
    def of(
        cls,
        trials: Iterable[TrialView],
        objective: Objective,
        families: Iterable[str] = (),
        front: Iterable[TrialView] | None = None,
    ) -> "TrialTable":
        """Return the table of trials, in their order.

        Args:
            trials: the rows.
            objective: gives `value`.
            families: the configured metric families, which know their units.
            front: the Pareto front; `None`: the search has one objective.
        """
        trials = list(trials)
        params = list(dict.fromkeys(key for trial in trials for key in trial.params))
        rows = [_cells(trial, objective) for trial in trials]
        own = [*_OWN, *_OWN_LAST]
        if front is not None:
            own.insert(own.index(VALUE) + 1, FRONT)
            on_front = {trial.trial_id for trial in front}
            rows = [row | {FRONT: row["trial_id"] in on_front} for row in rows]
        names = list(dict.fromkeys([*own, *params, *(name for row in rows for name in row)]))
        full = [{name: row.get(name) for name in names} for row in rows]
        return cls(trials, full, names, _units(names, objective, families), frozenset(params))

    def where(self, text: str) -> "TrialTable":
        """Return the rows for which an expression holds.

        Raises:
            ExperimentError: it is not a comparison of columns, or a column is unknown.
        """
        condition = Filter.parse(text, self._names())
        kept = [place for place, row in enumerate(self.rows) if condition(row)]
        return self._picked(kept)

    def sorted_by(self, column: str, *, descending: bool) -> "TrialTable":
        """Return the rows sorted by a column; those without a value come last.

        Raises:
            ExperimentError: there is no such column.
        """
        name = self.column(column)
        having = [place for place, row in enumerate(self.rows) if row[name] is not None]
        order = sorted(having, key=lambda place: _sort_key(self.rows[place][name]), reverse=descending)
        return self._picked([*order, *sorted(set(range(len(self.rows))) - set(having))])

    def first(self, count: int) -> "TrialTable":
        """Return the first rows."""
        return self._picked(range(len(self.rows))[:count])

    def with_columns(self, names: Iterable[str]) -> "TrialTable":
        """Return the table with these columns only.

        Raises:
            ExperimentError: a column is unknown.
        """
        return replace(self, columns=[self.column(name) for name in names])

    def column(self, name: str) -> str:
        """Return a column's full name; short names such as `lr` stand for their keys.

        Raises:
            ExperimentError: there is no such column; the nearest one is named.
        """
        names = self._names()
        if name in names:
            return names[name]
        raise unknown_column(name, names)

    def to_objects(self) -> list[dict[str, Any]]:
        """Return one object per row, with the columns under their names."""
        return [{name: row[name] for name in self.columns} for row in self.rows]

    def to_csv(self) -> str:
        """Return the table as CSV with a head; an absent value is an empty cell, a list is JSON."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.rows:
            writer.writerow([_csv_cell(row[name]) for name in self.columns])
        return text.getvalue()

    def to_arrow(self) -> "pyarrow.Table":
        """Return the table with a type per column, and its unit in the field's metadata under `unit`.

        A column with values of several types is written as JSON, and says so under `encoding`.
        """
        import pyarrow

        fields, arrays = [], []
        for name in self.columns:
            values, encoded = _of_one_type([row[name] for row in self.rows])
            known = _TYPES.get(name)
            if known is None and not any(value is not None for value in values):
                known = "string" if "/" not in name else "float64"
            array = pyarrow.array(values, getattr(pyarrow, known)() if known else None)
            metadata = {"unit": self.units[name]} if name in self.units else {}
            metadata |= {"encoding": "json"} if encoded else {}
            fields.append(pyarrow.field(name, array.type, metadata=metadata or None))
            arrays.append(array)
        return pyarrow.Table.from_arrays(arrays, schema=pyarrow.schema(fields))

    def write_parquet(self, path: Path) -> None:
        """Write the table as a Parquet file, replacing one that is there.

        Raises:
            ExperimentError: the file cannot be written.
        """
        from pyarrow import parquet

        buffer = io.BytesIO()
        parquet.write_table(self.to_arrow(), buffer)
        write_output(path, buffer.getvalue())

    def _names(self) -> dict[str, str]:
        """Return every name a column can be called by, and the column it stands for."""
        every = self.rows[0].keys() if self.rows else self.columns
        names = {name: name for name in every}
        short = {short: key for key, short in SHORT_NAMES.items()} | _HEADS
        for key in self.params:
            short.setdefault(key.rpartition(".")[2], key)
        return {**{name: key for name, key in short.items() if key in names}, **names}

    def _picked(self, places: Iterable[int]) -> "TrialTable":
        places = list(places)
        if not places:
            # The columns stay known, so that a later step can name them.
            return replace(self, trials=(), rows=(), columns=list(self.columns))
        return replace(
            self,
            trials=[self.trials[place] for place in places],
            rows=[self.rows[place] for place in places],
        )


def table_of(data: ExperimentData, trials: Iterable[TrialView]) -> TrialTable:
    """Return the table of some trials of an experiment."""
    front = data.pareto_front() if data.config.search.other_objectives else None
    return TrialTable.of(trials, data.objective, data.config.evaluation.metrics, front)


def _cells(trial: TrialView, objective: Objective) -> dict[str, Any]:
    own = trial.to_json()
    own[VALUE] = objective.value(trial.best_metrics)
    last, best = ({k: v for k, v in row.items() if "/" in k} for row in (trial.metrics, trial.best_metrics))
    return {
        **{name: own[name] for name in (*_OWN, *_OWN_LAST)},
        **trial.params,
        **last,
        **{f"{BEST}{key}": value for key, value in best.items()},
    }


def _units(names: Iterable[str], objective: Objective, families: Iterable[str]) -> dict[str, str]:
    """Return the columns' units; a family that cannot be imported here has none."""
    try:
        metrics = Catalogue.of(families).metrics
    except ConfigError:
        metrics = {metric.key: metric for metric in (*ENGINE_METRICS, *TEXT_METRICS)}
    units = {}
    for name in names:
        key = objective.metric if name == VALUE else name.removeprefix(BEST)
        unit = _UNITS.get(name) or (metrics[key].unit if key in metrics else "")
        if unit:
            units[name] = unit
    return units


def _sort_key(value: Any) -> tuple[int, Any]:
    return (0, value) if isinstance(value, int | float) else (1, str(value))


def _of_one_type(values: list[Any]) -> tuple[list[Any], bool]:
    """Return values that Arrow has one type for, and whether they had to be written as JSON."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 or kinds == {int, float}:
        return [float(v) if v is not None and len(kinds) == 2 else v for v in values], False
    return [None if value is None else json.dumps(value) for value in values], True


def _csv_cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
