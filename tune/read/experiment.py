"""An experiment for Python programs: its trials, their curves, and its best adapter.

Everything is read once, when the object is made, and never changes; load the experiment again to see how a
running search has moved on.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from trainable.checkpoint.manifest import ADAPTER
from trainable.config import TrialConfig
from trainable.errors import ExperimentError, UserError
from trainable.objective import Objective
from trainable.places import Place, inside
from trainable.records import STEP, MetricsRecord, step_and_metrics
from tune.config import Config
from tune.store.experiment import METRICS
from tune.store.reader import ExperimentData, Status, TrialView

if TYPE_CHECKING:
    import optuna
    import pandas
    import pyarrow
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


class Trials(Sequence[TrialView]):
    """The trials of an experiment, by their number."""

    def __init__(self, trials: Sequence[TrialView]) -> None:
        """Wrap the trials."""
        self._trials = trials

    @overload
    def __getitem__(self, index: int) -> TrialView: ...
    @overload
    def __getitem__(self, index: slice) -> "Trials": ...
    def __getitem__(self, index: int | slice) -> "TrialView | Trials":
        """Return one trial, or some of them."""
        return Trials(self._trials[index]) if isinstance(index, slice) else self._trials[index]

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

    def to_arrow(self) -> "pyarrow.Table":
        """Return a table with one row per trial.

        Columns: number, trial_id, state, steps, duration_s, reason, follows, checkpoint, wandb_run_id; each
        parameter under its dotted key; each metric of the last record under its key, and of the best record
        under `best/` and its key. A parameter with values of several types is written as JSON.
        """
        import pyarrow

        rows = [_row(trial) for trial in self._trials]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return pyarrow.table({name: _column([row.get(name) for row in rows]) for name in names})

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
    """The best adapter of an experiment.

    Attributes:
        trial: the trial it is from.
        metrics: the step and the metrics of the checkpoint it is from.
        config: everything the trial was configured by.
        adapter: its folder, in PEFT's format; of an experiment in a store, a copy on this machine.
    """

    trial: TrialView
    metrics: dict[str, Any]
    config: TrialConfig
    adapter: Path

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
        from peft import PeftModel

        from trainable.model import load_base, pick_device

        base = load_base(self.config.model, pick_device(device))
        return PeftModel.from_pretrained(base.module, self.adapter).eval(), base.tokenizer


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
        return Trials(self._data.trials)

    @property
    def leaderboard(self) -> Trials:
        """The same, best first; those without a score come last."""
        return Trials(self._data.leaderboard())

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
        trial, checkpoint = best
        state = self._data.store.read_checkpoint(checkpoint, deep=False)
        metrics = step_and_metrics(MetricsRecord(state["record"]))
        config = TrialConfig.model_validate(state["config"])
        return BestAdapter(trial, metrics, config, self._adapter(trial, checkpoint, metrics))

    @property
    def study(self) -> "optuna.Study":
        """Optuna's study; anything that reads one can be used with it.

        Raises:
            ExperimentError: the search was ended before it created one.
        """
        if self._data.study is None:
            raise ExperimentError(f"experiment '{self.name}' has no study: nothing was searched yet.")
        return self._data.study.study

    def _adapter(self, trial: TrialView, checkpoint: Place, metrics: dict[str, Any]) -> Path:
        """Return the folder in `best/` if it holds this adapter: resuming may delete checkpoints."""
        try:
            kept = json.loads(self._data.store.read_best(METRICS))
        except (OSError, ValueError):
            kept = {}
        is_kept = (kept.get("trial_id"), kept.get(STEP)) == (trial.trial_id, metrics.get(STEP))
        store = self._data.store
        return store.fetch(inside(store.best if is_kept else checkpoint, ADAPTER))

    def __repr__(self) -> str:
        """Return name, progress and the best objective."""
        status = self.status
        best = self.objective.value(status.best.best_metrics) if status.best else None
        score = f", best {self.objective.metric} {best:.4g}" if best is not None else ""
        done = sum(count for state, count in status.counts.items() if state.is_terminal)
        return f"<Experiment '{self.name}': {done}/{status.num_trials} trials{score}>"


def _row(trial: TrialView) -> dict[str, Any]:
    last, best = ({k: v for k, v in row.items() if "/" in k} for row in (trial.metrics, trial.best_metrics))
    own = trial.to_json()
    names = (
        *("number", "trial_id", "state", "steps", "duration_s", "reason", "follows"),
        *("checkpoint", "wandb_run_id"),
    )
    return {
        **{name: own[name] for name in names},
        **trial.params,
        **last,
        **{f"best/{key}": value for key, value in best.items()},
    }


def _column(values: list[Any]) -> list[Any]:
    """Return values that Arrow has one type for."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 or kinds == {int, float}:
        return values
    return [None if value is None else json.dumps(value) for value in values]
