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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from ray.tune.search import Searcher

from search_spaces import Space
from trainable import records
from trainable.config import TrialConfig
from trainable.outcome import objective, outcome
from trainable.records import TrialState
from tune.search.samplers import fixed
from tune.store.study import (
    ATTEMPTS,
    BEGINS_FROM,
    ENDED,
    FOLLOWS,
    PARAMS,
    RAY_TRIAL_ID,
    REASON,
    STARTED,
    STATE,
    STEPS,
    WANDB_RUN_ID,
    open_study,
)

HOPELESS = 3
"""So many trials that fail in the same way, before any has done better, end the search."""

_TOLD = {
    TrialState.COMPLETED: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
}


@dataclass(frozen=True)
class Held:
    """A trial of the study that Ray has to be given (again).

    Attributes:
        number: in the study.
        trial_id: the one that it keeps.
        attempt: 1, and one more each time it was begun again.
        checkpoint: the folder that it goes on from; `None`: from the beginning.
        record: the metrics record of that checkpoint.
        checkpoint_index: the number of its newest checkpoint folder; -1 if it has none.
    """

    number: int
    trial_id: str
    attempt: int = 1
    checkpoint: str | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    checkpoint_index: int = -1


class OptunaSearcher(Searcher):
    """Suggests configurations from a space and reports what became of them.

    Attributes:
        new_trials: how many may still be asked for.
        given_up: why nothing more is suggested before that; `None` while there is no reason.
    """

    def __init__(
        self,
        space: Space,
        base: TrialConfig,
        *,
        study_name: str,
        storage: Path | str,
        metric: str,
        mode: str,
        sampler: Callable[[int], BaseSampler],
        new_trials: int,
        held: Sequence[Held] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open or create the study.

        Args:
            space: what is searched.
            base: the configuration that a suggestion is put into.
            study_name: the experiment's name.
            storage: a journal file's path, or the URL of a database.
            metric, mode: the objective; `mode` is `min` or `max`.
            sampler: makes the one that suggests the trial before which so many were asked for: what it draws
                depends on the seed, that number and the study, so that an interrupted search draws what it
                would have drawn.
            new_trials: how many may still be asked for.
            held: trials of the study that go on first.
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
        self.new_trials = new_trials
        self._held = list(held)
        self._failures: list[str] | None = []
        self.given_up: str | None = None
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
            self._study = open_study(self._storage, self._study_name, direction=direction)
        return self._study

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing more to suggest."""
        return self.given_up is not None or not (self._held or self.new_trials)

    def next_held(self) -> Held | None:
        """Return the trial that has to be given out next under its own id, if there is one."""
        return self._held[0] if self._held else None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the Ray config of a trial: `trial`, `params`, `number` and `attempt`; see `LoraTrial`.

        A held trial is taken up under its own id; any other id begins a new one.
        """
        if self.exhausted:
            return Searcher.FINISHED
        if self._held and self._held[0].trial_id == trial_id:
            return self._take_up(self._held.pop(0))
        self.new_trials -= 1
        self.study.sampler = self._sampler_of(len(self.study.get_trials(deepcopy=False)))
        return self._begin(self.study.ask(), trial_id, attempt=1)

    def _take_up(self, held: Held) -> dict[str, Any]:
        stored_id = self.study._storage.get_trial_id_from_study_id_trial_number(
            self.study._study_id, held.number
        )
        self.study._storage.set_trial_state_values(stored_id, optuna.trial.TrialState.RUNNING)
        self.study.sampler = self._sampler_of(held.number)
        if PARAMS not in self.study._storage.get_trial(stored_id).user_attrs:
            self.study.sampler = fixed(self._drawn_whole(held.number), self.study.sampler)
        return self._begin(optuna.Trial(self.study, stored_id), held.trial_id, held.attempt)

    def _sampler_of(self, number: int) -> BaseSampler:
        """Return the sampler of a trial; attempts at others before it do not count."""
        before = self.study.get_trials(deepcopy=False)[:number]
        return self._sampler(sum(FOLLOWS not in trial.user_attrs for trial in before))

    def _drawn_whole(self, number: int) -> dict[str, Any]:
        """Draw a trial's parameters, in Optuna's names, as they would have been without the interruption.

        A process that dies while it draws leaves a trial with some of them. Those that are left would come
        out differently if they were drawn first, so all are drawn again, beside a copy of the study.
        """
        copy = optuna.create_study(direction=self.study.direction, sampler=self._sampler_of(number))
        copy.add_trials([trial for trial in self.study.get_trials() if trial.number < number])
        trial = copy.ask()
        self._space.suggest(trial)
        return trial.params

    def _begin(self, trial: optuna.Trial, trial_id: str, attempt: int) -> dict[str, Any]:
        params = self._space.suggest(trial)
        config = self._space.apply(self._base, params)
        attributes = {
            RAY_TRIAL_ID: trial_id,
            WANDB_RUN_ID: trial_id,
            PARAMS: params,
            ATTEMPTS: attempt,
            STARTED: trial.user_attrs.get(STARTED, self._clock()),
        }
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        self._live[trial_id] = trial._trial_id
        return {
            "trial": config.model_dump(mode="json"),
            "params": params,
            "number": trial.number,
            "attempt": attempt,
        }

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
        self._give_up_if_hopeless(state, reason)

    def tell_end(self, number: int, record: Mapping[str, Any], state: TrialState, reason: str | None) -> None:
        """Tell the study of an end that an earlier process did not live to tell."""
        stored_id = self.study._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        self.study._storage.set_trial_state_values(stored_id, optuna.trial.TrialState.RUNNING)
        trial = optuna.Trial(self.study, stored_id)
        self._report(trial, record)
        value = objective(record, self.metric)
        self._tell(trial, state, reason, value if state is TrialState.COMPLETED else None)

    def hold(self, held: Held) -> None:
        """Take up a trial of the study before anything new is asked for."""
        self._held.append(held)

    def attempt_again(self, number: int, trial_id: str, checkpoint: str | None) -> int:
        """Make another trial with the parameters of one that has ended: what is told cannot be taken back.

        Args:
            number: the one that has ended.
            trial_id: the other's id.
            checkpoint: where the other begins; `None`: at the beginning.

        Returns:
            The number of the other.
        """
        attributes = {FOLLOWS: number, RAY_TRIAL_ID: trial_id, BEGINS_FROM: checkpoint}
        self.study.enqueue_trial(self.study.get_trials(deepcopy=False)[number].params, user_attrs=attributes)
        return self.study.ask().number

    def suspend(self) -> None:
        """Let whatever still runs wait, so that nothing stays `RUNNING` and all of it can go on later."""
        for trial_id in list(self._live):
            if (trial := self._trial(trial_id)) is not None:
                self.study._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.WAITING)
        self._live.clear()

    def _give_up_if_hopeless(self, state: TrialState, reason: str | None) -> None:
        """Stop suggesting if the first trials have all failed, and all in the same way."""
        if state is not TrialState.FAILED or self._failures is None:
            self._failures = None
            return
        self._failures.append(str(reason))
        if len(self._failures) == HOPELESS and len(set(self._failures)) == 1:
            self.given_up = f"the first {HOPELESS} trials all failed in the same way: {reason}"

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
        # Feasible is what is not above 0: the sampler looks elsewhere for what fits the device.
        trial.set_constraint("fits the device", 1.0 if state is TrialState.OOM else 0.0)
        trial.set_user_attr(STATE, state.value)
        trial.set_user_attr(ENDED, self._clock())
        if reason:
            trial.set_user_attr(REASON, reason)
        self.study.tell(trial, value, state=_TOLD.get(state, optuna.trial.TrialState.FAIL))
