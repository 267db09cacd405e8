"""Ray's source of trials: first those that an earlier process left unfinished, then new ones.

Ray's own generator can only make new trials. A resumed trial keeps its id, and with it its folder, its
checkpoints' numbering and its W&B run.
"""

import copy
from pathlib import Path
from typing import Any

from ray.tune import Checkpoint
from ray.tune.experiment import Trial
from ray.tune.search import ConcurrencyLimiter, SearchGenerator

from trainable.places import place_of
from trainable.records import ITERATION, REASON
from trainable.stores import open_store
from tune.search.searcher import OptunaSearcher, ResumedTrial
from tune.store.experiment import ExperimentStore

# Ray has no public way to make a trial, or to say where its checkpoints' numbering begins.
from ray.tune.experiment.config_parser import _create_trial_from_spec  # isort: skip
from ray.train._internal.session import _TrainingResult  # isort: skip


class TrialSource(SearchGenerator):
    """Gives Ray a searcher's trials, a limited number at once."""

    def __init__(self, searcher: OptunaSearcher, max_concurrent: int, store: ExperimentStore) -> None:
        """Wrap a searcher.

        Args:
            searcher: suggests, and knows which trials are resumed.
            max_concurrent: trials that Ray has at once.
            store: the experiment.
        """
        super().__init__(ConcurrencyLimiter(searcher, max_concurrent))
        self._optuna = searcher
        self._store = store

    def create_trial_if_possible(self, experiment_spec: dict[str, Any]) -> Trial | None:
        """Return the next trial; `None` while none is wanted."""
        resumed = self._optuna.next_resumed()
        trial_id = resumed.trial_id if resumed else Trial.generate_id()
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
        if resumed:
            _resume(trial, resumed)
        return trial

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Report an end to the searcher; Ray does not say what an error was, the trial's folder does."""
        if error and (reason := self._store.trial(trial_id).last_error()):
            result = {REASON: reason, **(result or {})}
        super().on_trial_complete(trial_id, result, error)

    def is_finished(self) -> bool:
        """Return whether the searcher has no more trials; it alone counts them."""
        return self._optuna.exhausted


def _resume(trial: Trial, resumed: ResumedTrial) -> None:
    trial.storage.current_checkpoint_index = resumed.checkpoint_number
    if resumed.checkpoint is not None:
        metrics = {**resumed.record, ITERATION: resumed.record.get(ITERATION, 0)}
        trial._restore_checkpoint_result = _TrainingResult(_checkpoint(resumed.checkpoint), metrics=metrics)


def _checkpoint(path_or_uri: str) -> Checkpoint:
    place = place_of(path_or_uri)
    if isinstance(place, Path):
        return Checkpoint.from_directory(place)
    files, path = open_store(place)
    return Checkpoint(path, files)
