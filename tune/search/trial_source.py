"""Gives Ray its trials: first those that an earlier process left unfinished, as themselves, then new ones.

Ray's own generator can only make new trials. A trial that goes on keeps its id, and with it its folder, its
checkpoints' numbering and its W&B run.
"""

import copy
from pathlib import Path
from typing import Any

from ray.tune import Checkpoint
from ray.tune.experiment import Trial
from ray.tune.search import ConcurrencyLimiter, SearchGenerator

from trainable import records
from trainable.outcome import last_error
from tune.search.searcher import Held, OptunaSearcher

# Ray has no public way to make a trial, or to say where its checkpoints' numbering begins.
from ray.tune.experiment.config_parser import _create_trial_from_spec  # isort: skip
from ray.train._internal.session import _TrainingResult  # isort: skip


class TrialGenerator(SearchGenerator):
    """Hands a searcher's trials to Ray, at most so many at once."""

    def __init__(self, searcher: OptunaSearcher, max_concurrent: int, directory: Path) -> None:
        """Wrap a searcher.

        Args:
            searcher: suggests, and knows what is held.
            max_concurrent: trials that Ray has at once.
            directory: the experiment's; a trial's folder in it is named by its id.
        """
        super().__init__(ConcurrencyLimiter(searcher, max_concurrent))
        self._optuna = searcher
        self._directory = directory

    def create_trial_if_possible(self, experiment_spec: dict[str, Any]) -> Trial | None:
        """Return the next trial; `None` while none is wanted."""
        held = self._optuna.next_held()
        trial_id = held.trial_id if held else Trial.generate_id()
        config = self.searcher.suggest(trial_id)
        if config is None or config == self._optuna.FINISHED:
            return None
        self._counter += 1
        trial = _create_trial_from_spec(
            copy.copy(experiment_spec) | {"config": config},
            self._parser,
            evaluated_params=config["params"],
            experiment_tag=str(config["number"]),
            trial_id=trial_id,
        )
        if held:
            _go_on(trial, held)
        return trial

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the searcher of an end; Ray does not say what an error was, the trial's folder does."""
        if error and (reason := last_error(self._directory / trial_id)):
            result = {records.REASON: reason, **(result or {})}
        super().on_trial_complete(trial_id, result, error)

    def is_finished(self) -> bool:
        """Return whether the searcher has no more trials; it alone counts them."""
        return self._optuna.exhausted


def _go_on(trial: Trial, held: Held) -> None:
    trial.storage.current_checkpoint_index = held.checkpoint_index
    if held.checkpoint is not None:
        metrics = {**held.record, "training_iteration": held.record.get("training_iteration", 0)}
        trial._restore_checkpoint_result = _TrainingResult(
            Checkpoint.from_directory(held.checkpoint), metrics=metrics
        )
