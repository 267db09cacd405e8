"""Optuna behind Ray Tune's `Searcher`, told the truth about every trial.

Each Ray trial is one Optuna trial, asked for and told through Optuna's ask-and-tell interface. The study
lives in a durable storage, by default a journal file in the experiment's folder, and everything that a
person or a resumed search needs to know of a trial is in it at once:

- intermediate values with their step, the one included at which the scheduler stopped the trial;
- `COMPLETE` for a trial that ran to its end, `PRUNED` for one that the scheduler stopped, `FAIL` with the
  reason for one that diverged, did not fit, or whose process died;
- Ray's trial id, the W&B run id, the resolved parameters, times and attempts, as user attributes.

The storage is the truth. Nothing of the study is pickled: a pickled searcher knows where its storage is and
opens it again.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray.tune.search import Searcher

from search_spaces import Space
from trainable import records
from trainable.config import TrialConfig
from trainable.records import TrialState
from tune.outcome import objective, outcome

RAY_TRIAL_ID = "ray_trial_id"
WANDB_RUN_ID = "wandb_run_id"
PARAMS = "params"
STATE = "trial_state"
REASON = "reason"
ATTEMPTS = "attempts"
STARTED = "started"
ENDED = "ended"
STEPS = "steps"

_TOLD = {
    TrialState.COMPLETED: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
}


def open_study(storage: Path | str, name: str, **options: Any) -> optuna.Study:
    """Open the study `name`, creating it if it is not there.

    Args:
        storage: a journal file's path, or the URL of a database.
        name: the experiment's.
        options: of `optuna.create_study`.
    """
    backend = JournalStorage(JournalFileBackend(str(storage))) if isinstance(storage, Path) else storage
    # Its warnings tell how a sampler goes about its work; they would tear the live table apart.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(storage=backend, study_name=name, load_if_exists=True, **options)


class OptunaSearcher(Searcher):
    """Suggests configurations from a space and reports what became of them."""

    def __init__(
        self,
        space: Space,
        base: TrialConfig,
        *,
        study_name: str,
        storage: Path | str,
        metric: str,
        mode: str,
        sampler: BaseSampler,
        num_trials: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open or create the study.

        Args:
            space: what is searched.
            base: the configuration that a suggestion is put into.
            study_name: the experiment's name.
            storage: a journal file's path, or the URL of a database.
            metric, mode: the objective; `mode` is `min` or `max`.
            sampler: any of Optuna's.
            num_trials: the search ends after so many.
            clock: unix time in seconds.
        """
        super().__init__(metric=metric, mode=mode)
        # A trial that diverged has no objective to report; Ray would end the whole search for it.
        os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
        self._space = space
        self._base = base
        self._study_name = study_name
        self._storage = storage
        self._sampler = sampler
        self._num_trials = num_trials
        self._clock = clock
        self._live: dict[str, int] = {}
        self._study: optuna.Study | None = None
        self.study.set_user_attr("metric", metric)
        self.study.set_user_attr("mode", mode)

    @property
    def study(self) -> optuna.Study:
        """The study, opened when it is first needed."""
        if self._study is None:
            direction = "minimize" if self.mode == "min" else "maximize"
            self._study = open_study(
                self._storage, self._study_name, direction=direction, sampler=self._sampler
            )
        return self._study

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the Ray config of a new trial: `trial`, `params` and `number`; see `LoraTrial`."""
        if len(self.study.get_trials(deepcopy=False)) >= self._num_trials:
            return Searcher.FINISHED
        trial = self.study.ask()
        params = self._space.suggest(trial)
        config = self._space.apply(self._base, params)
        attributes = {
            RAY_TRIAL_ID: trial_id,
            WANDB_RUN_ID: trial_id,
            PARAMS: params,
            ATTEMPTS: 1,
            STARTED: self._clock(),
        }
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        self._live[trial_id] = trial._trial_id
        return {"trial": config.model_dump(mode="json"), "params": params, "number": trial.number}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report the intermediate value."""
        if (trial := self._trial(trial_id)) is not None:
            self._report(trial, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how the trial ended.

        A trial that Ray ended with an error is told with its last record if it has one. The value of a
        complete trial is that of its last record; a pruned one's is its last intermediate value.
        """
        if (trial := self._trial(trial_id)) is None:
            return
        if result:
            self._report(trial, result)
        state, reason = outcome(result, error=error)
        value = objective(result, self.metric)
        if state is TrialState.COMPLETED and value is None:
            state, reason = TrialState.FAILED, f"the last record has no finite {self.metric}"
        self._tell(trial, state, reason, value if state is TrialState.COMPLETED else None)
        del self._live[trial_id]

    def close(self, reason: str) -> None:
        """Tell the study that whatever still runs has ended, so that nothing stays `RUNNING`."""
        for trial_id in list(self._live):
            if (trial := self._trial(trial_id)) is not None:
                self._tell(trial, TrialState.FAILED, reason, None)
        self._live.clear()

    def save(self, checkpoint_path: str) -> None:
        """Write which trials live; the study itself is in its storage."""
        Path(checkpoint_path).write_text(json.dumps(self._live), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Take up the trials that lived; the study is opened from its storage."""
        self._live = json.loads(Path(checkpoint_path).read_text(encoding="utf-8"))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open study."""
        return self.__dict__ | {"_study": None}

    def _trial(self, trial_id: str) -> optuna.Trial | None:
        """Return the live Optuna trial of a Ray trial; `None` if it is unknown or has been told."""
        stored_id = self._live.get(trial_id)
        if stored_id is None:
            return None
        # What lived when the searcher was saved may have been told since: the storage is the truth.
        if self.study._storage.get_trial(stored_id).state.is_finished():
            del self._live[trial_id]
            return None
        return optuna.Trial(self.study, stored_id)

    def _report(self, trial: optuna.Trial, record: Mapping[str, Any]) -> None:
        value, step = objective(record, self.metric), record.get(records.STEP)
        if step is None:
            return
        trial.set_user_attr(STEPS, step)
        if records.ATTEMPT in record:
            trial.set_user_attr(ATTEMPTS, record[records.ATTEMPT])
        known = trial.study._storage.get_trial(trial._trial_id).intermediate_values
        if value is not None and step not in known:
            trial.report(value, step)

    def _tell(self, trial: optuna.Trial, state: TrialState, reason: str | None, value: float | None) -> None:
        trial.set_user_attr(STATE, state.value)
        trial.set_user_attr(ENDED, self._clock())
        if reason:
            trial.set_user_attr(REASON, reason)
        self.study.tell(trial, value, state=_TOLD.get(state, optuna.trial.TrialState.FAIL))
