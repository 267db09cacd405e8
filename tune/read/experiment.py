"""An experiment for Python programs: its trials, their curves, and its best adapter.

Everything is read once, when the object is made, and never changes; load the experiment again to see how a
running search has moved on.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from trainable.checkpoint.manifest import ADAPTER
from trainable.config import TrialConfig
from trainable.errors import ExperimentError, UserError, nearest
from trainable.objective import Objective
from trainable.places import Place, inside
from trainable.records import STEP, MetricsRecord, step_and_metrics
from tune.config import Config
from tune.read.trial_table import TrialTable, table_of
from tune.store.reader import ExperimentData, Status, TrialView

_ADAPTER_CONFIG = "adapter_config.json"

if TYPE_CHECKING:
    import optuna
    import pandas
    import plotly.graph_objects
    import pyarrow
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


class Trials(Sequence[TrialView]):
    """The trials of an experiment, by their number."""

    def __init__(
        self, trials: Sequence[TrialView], table: Callable[[Iterable[TrialView]], TrialTable]
    ) -> None:
        """Wrap the trials.

        Args:
            trials: the trials.
            table: makes their table.
        """
        self._trials = trials
        self._table = table

    @overload
    def __getitem__(self, index: int) -> TrialView: ...
    @overload
    def __getitem__(self, index: slice) -> "Trials": ...
    def __getitem__(self, index: int | slice) -> "TrialView | Trials":
        """Return one trial, or some of them."""
        if isinstance(index, slice):
            return Trials(self._trials[index], self._table)
        return self._trials[index]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._trials)

    def __iter__(self) -> Iterator[TrialView]:
        """Yield the trials."""
        return iter(self._trials)

    def __repr__(self) -> str:
        """Return one line per trial."""
        return "\n".join(
            f"{trial.number}: {trial.state.value}, {trial.steps} steps, {dict(trial.params)}"
            for trial in self._trials
        )

    def where(self, condition: str) -> "Trials":
        """Return the trials for which a condition holds, such as `lora.r >= 16 and state == completed`.

        Raises:
            ExperimentError: it is not a condition, or a column is unknown.
        """
        return Trials(self._table(self._trials).where(condition).trials, self._table)

    def to_arrow(self) -> "pyarrow.Table":
        """Return a table with one row per trial.

        Columns: number, trial_id, state, value (the best of the objective), steps, duration_s, reason,
        follows, checkpoint, wandb_run_id; each parameter under its dotted key; each metric of the last record
        under its key, and of the best record under `best/` and its key. A column's unit is in its field's
        metadata under `unit`. A parameter with values of several types is written as JSON.
        """
        return self._table(self._trials).to_arrow()

    def to_pandas(self) -> "pandas.DataFrame":
        """Return the same as a data frame.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            return self.to_arrow().to_pandas()
        except ImportError:
            raise UserError("to_pandas() needs pandas: pip install pandas, or use to_arrow().") from None


@dataclass(frozen=True)
class BestAdapter:
    """The best adapter of an experiment, or of one of its trials.

    Attributes:
        trial: the trial it is from.
        metrics: the step and the metrics of the checkpoint it is from.
        config: everything the trial was configured by.
        adapter: its folder, in PEFT's format; of an experiment in a store, a copy on this machine.
        data_hash: SHA-256 of the data that it was trained and validated on.
    """

    trial: TrialView
    metrics: dict[str, Any]
    config: TrialConfig
    adapter: Path
    data_hash: str

    @property
    def params(self) -> dict[str, Any]:
        """The trial's parameters by dotted key."""
        return dict(self.trial.params)

    def load(
        self, device: Literal["auto", "cpu", "cuda"] = "auto"
    ) -> "tuple[PeftModel, PreTrainedTokenizerBase]":
        """Load the base model with the adapter on it, and the tokenizer.

        Args:
            device: `auto` (a GPU where there is one), `cpu` or `cuda`.

        Raises:
            ModelError: the base model cannot be loaded.
        """
        from trainable.model import load_base, pick_device
        from tune.read.loading import with_adapter

        base = load_base(self.config.model, pick_device(device))
        return with_adapter(base, self.adapter), base.tokenizer


class Experiment:
    """A search's results, as they were on the disk when it was loaded."""

    def __init__(self, data: ExperimentData) -> None:
        """Wrap what was read."""
        self._data = data

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._data.store.name

    @property
    def path(self) -> Place:
        """The experiment's folder, or its URI."""
        return self._data.store.place

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        return self._data.config

    @property
    def objective(self) -> Objective:
        """The metric that the search optimizes, and its direction."""
        return self._data.objective

    @property
    def status(self) -> Status:
        """How far the search is."""
        return self._data.status()

    @property
    def trials(self) -> Trials:
        """Every trial, in the order in which they were tried."""
        return self._of(self._data.trials)

    @property
    def leaderboard(self) -> Trials:
        """The same, best first; those without a score come last."""
        return self._of(self._data.leaderboard())

    @property
    def pareto_front(self) -> Trials:
        """The trials that no other one beats in every objective; with one objective, the best."""
        return self._of(self._data.pareto_front())

    @cached_property
    def best(self) -> BestAdapter:
        """The best adapter.

        Raises:
            ExperimentError: no trial has a complete checkpoint with a finite objective.
        """
        best = self._data.best_checkpoint()
        if best is None:
            raise ExperimentError(
                f"experiment '{self.name}' has no adapter: no trial has a checkpoint with a finite "
                f"{self.objective.metric}. Its trials say why; or resume the search."
            )
        return self._from_checkpoint(*best)

    @cached_property
    def best_metrics(self) -> dict[str, Any]:
        """The content of `best/metrics.json`, with the scores on the test rows; empty before there is one."""
        return self._data.store.best_metrics()

    def adapter(self, number: int) -> BestAdapter:
        """Return the best adapter of one trial.

        Raises:
            ExperimentError: there is no such trial, or it has no complete checkpoint with a finite objective.
        """
        trial = self._data.trial(number)
        checkpoint = self._data.store.trial(trial.trial_id).best_checkpoint(self.objective)
        if checkpoint is None:
            raise ExperimentError(
                f"trial {number} of '{self.name}' has no adapter: no checkpoint of it is complete and has a "
                f"finite {self.objective.metric}. Choose another trial: loratune trials {self.name}"
            )
        return self._from_checkpoint(trial, checkpoint)

    def _from_checkpoint(self, trial: TrialView, checkpoint: Place) -> BestAdapter:
        state = self._data.store.read_checkpoint(checkpoint, deep=False)
        metrics = step_and_metrics(MetricsRecord(state["record"]))
        config = TrialConfig.model_validate(state["config"])
        adapter = self._adapter(trial, checkpoint, metrics)
        return BestAdapter(trial, metrics, config, adapter, state["data_hash"])

    def curves(self, metric: str | None = None) -> "pyarrow.Table":
        """Return a metric of all trials over their steps, one row per record: number, step, value.

        Args:
            metric: its key; `None`: the objective's. A value that is not finite is null.

        Raises:
            ExperimentError: no record of any trial has such a metric.
        """
        import pyarrow

        key = metric or self.objective.metric
        known = {name for trial in self.trials for record in trial.records for name in record.metrics}
        if key not in known:
            raise ExperimentError(
                f"no trial of '{self.name}' has reported a metric '{key}'.{nearest(key, known)} "
                f"Its metrics: {', '.join(sorted(known)) or 'none yet'}."
            )
        rows = [
            (trial.number, step, value if math.isfinite(value) else None)
            for trial in self.trials
            if any(key in record.metrics for record in trial.records)
            for step, value in trial.curve(key)
        ]
        types = {"number": pyarrow.int64(), "step": pyarrow.int64(), "value": pyarrow.float64()}
        columns = zip(types.items(), zip(*rows, strict=True), strict=True)
        return pyarrow.table({name: pyarrow.array(values, kind) for (name, kind), values in columns})

    def figure(self, kind: str = "history") -> "plotly.graph_objects.Figure":
        """Return one of Optuna's figures of the study, as a plotly object.

        Args:
            kind: `history`, `curves`, `importance`, `parallel`, `contour`, `slice` or `timeline`; of a search
                over several objectives also `pareto`.

        Raises:
            UserError: there is no such figure, plotly is not installed, or nothing has been tried yet.
        """
        from tune.read.figures import PARETO, figure, pareto_study

        study = self.study
        if kind == PARETO:
            study = pareto_study(self._data.trials, self.config.search.objectives)
        return figure(study, kind, self.objective.metric)

    @property
    def study(self) -> "optuna.Study":
        """Optuna's study; anything that reads one can be used with it.

        Raises:
            ExperimentError: the search was ended before it created one.
        """
        if self._data.study is None:
            raise ExperimentError(f"experiment '{self.name}' has no study: nothing was searched yet.")
        return self._data.study.study

    def _of(self, trials: Sequence[TrialView]) -> Trials:
        return Trials(trials, partial(table_of, self._data))

    def _adapter(self, trial: TrialView, checkpoint: Place, metrics: dict[str, Any]) -> Path:
        """Return the folder in `best/` if it holds this adapter: resuming may delete checkpoints."""
        kept = self.best_metrics
        store = self._data.store
        is_kept = (kept.get("trial_id"), kept.get(STEP)) == (trial.trial_id, metrics.get(STEP))
        try:
            store.read_best(f"{ADAPTER}/{_ADAPTER_CONFIG}")
        except FileNotFoundError:
            is_kept = False
        return store.fetch(inside(store.best if is_kept else checkpoint, ADAPTER))

    def __repr__(self) -> str:
        """Return name, progress and the best objective."""
        status = self.status
        best = self.objective.value(status.best.best_metrics) if status.best else None
        score = f", best {self.objective.metric} {best:.4g}" if best is not None else ""
        done = sum(count for state, count in status.counts.items() if state.is_terminal)
        return f"<Experiment '{self.name}': {done}/{status.num_trials} trials{score}>"
