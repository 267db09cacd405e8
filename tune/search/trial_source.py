"""Ray's source of trials: first those that an earlier process left unfinished, then new ones.

Ray's own generator can only make new trials. A resumed trial keeps its id, and with it its folder, its
checkpoints' numbering and its W&B run.

The number of trials at once follows the cluster, and a fault of the infrastructure is not counted as a
failure of the trial that it ended.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Checkpoint, PlacementGroupFactory
from ray.tune.experiment import Trial
from ray.tune.search import ConcurrencyLimiter, SearchGenerator

from trainable.places import Place, place_of
from trainable.records import ITERATION, NODE_ID, REASON, MetricsRecord
from trainable.stores import open_store
from tune.search.faults import Faults, fault_of
from tune.search.searcher import OptunaSearcher, ResumedTrial
from tune.store.experiment import ExperimentStore

# Ray has no public way to say where the numbering of a trial's checkpoints begins.
from ray.train._internal.session import _TrainingResult  # isort: skip

_RECOUNT_S = 2.0
"""How often the cluster is counted."""

Request = Callable[[frozenset[str]], PlacementGroupFactory]
"""Returns what a trial asks Ray for, given the ids of the nodes that it must not be placed on."""


class SearchTrial(Trial):
    """A Ray trial that keeps its retries when the infrastructure ends it."""

    def __init__(self, *args: Any, faults: Faults, request: Request, **kwargs: Any) -> None:
        """Take Ray's arguments.

        Args:
            *args: Ray's.
            faults: counts the search's faults.
            request: places the trial.
            **kwargs: Ray's.
        """
        super().__init__(*args, placement_group_factory=request(faults.excluded), **kwargs)
        self._faults = faults
        self._request = request

    def handle_error(self, exc: Any = None) -> None:
        """Count an error; Ray calls it before it decides whether the trial is started again."""
        spent = self.run_metadata.num_failures
        actor = self.temporary_state.ray_actor
        fault = fault_of(exc, actor._actor_id.hex() if actor is not None else None)
        super().handle_error(exc)
        if fault is None:
            self._faults.on_own_error(self.trial_id)
        elif self._faults.add(self.trial_id, fault):
            self.run_metadata.num_failures = spent
        else:
            self.run_metadata.num_failures = self.max_failures + 1
        # A trial that dies before its first checkpoint is another attempt as well.
        last = MetricsRecord(self.last_result or {}).attempt
        self.config["attempt"] = max(self.config["attempt"], last) + 1
        self.config["wait_s"] = self._faults.wait_s(self.trial_id)
        self.placement_group_factory = self._request(self._faults.excluded)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the search behind: Ray pickles its trials."""
        return super().__getstate__() | {"_faults": None, "_request": None}


class TrialSource(SearchGenerator):
    """Gives Ray a searcher's trials, a limited number at once."""

    def __init__(
        self,
        searcher: OptunaSearcher,
        limit: Callable[[], int],
        store: ExperimentStore,
        *,
        faults: Faults,
        request: Request,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wrap a searcher.

        Args:
            searcher: suggests, and knows which trials are resumed.
            limit: returns how many trials Ray should have at once, as the cluster is at the moment.
            store: the experiment.
            faults: counts the search's faults.
            request: places a trial.
            clock: seconds, never going back.
        """
        super().__init__(ConcurrencyLimiter(searcher, limit()))
        self._optuna = searcher
        self._limit = limit
        self._store = store
        self._faults = faults
        self._request = request
        self._clock = clock
        self._counted = clock()

    def create_trial_if_possible(self, experiment_spec: dict[str, Any]) -> Trial | None:
        """Return the next trial; `None` while none is wanted."""
        self._recount()
        resumed = self._optuna.next_resumed()
        trial_id = resumed.trial_id if resumed else Trial.generate_id()
        config = self.searcher.suggest(trial_id)
        if config is None or config == self._optuna.FINISHED:
            return None
        self._counter += 1
        spec = experiment_spec
        trial = SearchTrial(
            spec["run"],
            config=config,
            trial_id=trial_id,
            storage=spec["storage"],
            evaluated_params=config["params"],
            experiment_tag=str(config["number"]),
            checkpoint_config=spec["checkpoint_config"],
            trial_name_creator=spec["trial_name_creator"],
            trial_dirname_creator=spec["trial_dirname_creator"],
            log_to_file=spec["log_to_file"],
            max_failures=spec["max_failures"],
            faults=self._faults,
            request=self._request,
        )
        if resumed:
            _resume(trial, resumed)
        return trial

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report a record to the searcher; it also shows that the trial's node works."""
        self._faults.on_record(trial_id, result.get(NODE_ID), MetricsRecord(result).step)
        super().on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Report an end to the searcher; Ray does not say what an error was, the trial's folder does."""
        reason = self._faults.last(trial_id) or self._store.trial(trial_id).last_error() if error else None
        if reason:
            result = {REASON: reason, **(result or {})}
        super().on_trial_complete(trial_id, result, error)

    def is_finished(self) -> bool:
        """Return whether the searcher has no more trials; it alone counts them."""
        return self._optuna.exhausted

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cluster and the terminal behind: Ray pickles its source of trials and never reads it."""
        return self.__dict__ | {"_limit": None, "_faults": None, "_request": None}

    def _recount(self) -> None:
        """Let the number of trials at once follow the cluster."""
        if self._clock() - self._counted >= _RECOUNT_S:
            self._counted = self._clock()
            self.searcher.set_max_concurrency(self._limit())


def _resume(trial: Trial, resumed: ResumedTrial) -> None:
    trial.storage.current_checkpoint_index = resumed.checkpoint_number
    if resumed.checkpoint is not None:
        metrics = {**resumed.record, ITERATION: resumed.record.get(ITERATION, 0)}
        trial._restore_checkpoint_result = _TrainingResult(_checkpoint(resumed.checkpoint), metrics=metrics)


def ray_storage(results_dir: Place) -> dict[str, Any]:
    """Return where Ray keeps the checkpoints of experiments, as settings of its `RunConfig`."""
    if isinstance(results_dir, Path):
        return {"storage_path": str(results_dir)}
    files, path = open_store(results_dir)
    return {"storage_path": path, "storage_filesystem": files}


def _checkpoint(path_or_uri: str) -> Checkpoint:
    place = place_of(path_or_uri)
    if isinstance(place, Path):
        return Checkpoint.from_directory(place)
    files, path = open_store(place)
    return Checkpoint(path, files)
