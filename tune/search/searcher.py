"""Optuna behind Ray Tune's `Searcher`: every trial's progress and end reach the study as they are.

Each Ray trial is one Optuna trial, asked for and reported through Optuna's ask-and-tell interface. The study
lives in a durable storage, by default a journal file in the experiment's folder, and holds at once:

- intermediate values with their step, including the one at which the scheduler stopped the trial;
- `COMPLETE` for a trial that ran to its end, `PRUNED` for one that the scheduler stopped, `FAIL` with the
  reason for one that diverged, did not fit, or whose process died;
- Ray's trial id, the W&B run id, the resolved parameters, times and attempts, as user attributes.

The storage is the source of truth. Nothing of the study is pickled: a pickled searcher knows where its
storage is and opens it again.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from ray.tune.search import Searcher

from search_spaces import Space
from trainable.config import TrialConfig
from trainable.records import ATTEMPT, STEP, MetricsRecord, Outcome, TrialState
from trainable.suggestion import Suggestion, TrialFiles
from tune.search.samplers import fixed
from tune.store.study import StudyStore

HOPELESS = 3
"""This many trials that fail in the same way, before any has done better, end the search."""

_OPTUNA_STATES = {
    TrialState.COMPLETED: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
}


@dataclass(frozen=True)
class ResumedTrial:
    """A trial of the study that Ray has to be given again.

    Attributes:
        number: in the study.
        trial_id: the id that it keeps.
        attempt: 1, plus one for each time the trial was resumed.
        checkpoint: the folder that it starts from; `None`: from the beginning.
        record: the metrics record of that checkpoint.
        checkpoint_number: the number of its newest checkpoint folder; -1 if it has none.
    """

    number: int
    trial_id: str
    attempt: int = 1
    checkpoint: str | None = None
    record: MetricsRecord = field(default_factory=MetricsRecord)
    checkpoint_number: int = -1


class OptunaSearcher(Searcher):
    """Suggests configurations from a space and reports to the study how each trial did.

    Attributes:
        new_trials: how many more may be asked for.
        given_up: why nothing more is suggested before that; `None` while there is no reason.
    """

    def __init__(
        self,
        space: Space,
        base: TrialConfig,
        study: StudyStore,
        *,
        sampler: Callable[[int], BaseSampler],
        new_trials: int,
        files: Callable[[str], TrialFiles] | None = None,
        resumed: Sequence[ResumedTrial] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Search a space.

        Args:
            space: what is searched.
            base: the configuration that a suggestion is put into.
            study: where the trials are kept.
            sampler: makes the sampler of a trial from the number of trials asked for before it. What it draws
                depends on the seed, that number and the study, so an interrupted search draws what it would
                have drawn without the interruption.
            new_trials: how many may be asked for.
            files: gives a trial's paths by its id.
            resumed: trials of the study that Ray is given first.
            clock: unix time in seconds.
        """
        objective = study.objective
        super().__init__(metric=objective.metric, mode=objective.mode)
        self._space = space
        self._base = base
        self._study = study
        self._objective = objective
        self._sampler = sampler
        self._files = files
        self.new_trials = new_trials
        self._resumed = list(resumed)
        self._failures: list[str] | None = []
        self.given_up: str | None = None
        self._clock = clock
        self._live: dict[str, int] = {}

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing more to suggest."""
        return self.given_up is not None or not (self._resumed or self.new_trials)

    def next_resumed(self) -> ResumedTrial | None:
        """Return the trial that has to be given out next under its own id, if there is one."""
        return self._resumed[0] if self._resumed else None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return a trial's `Suggestion` as its Ray configuration.

        A resumed trial keeps its own id; any other id begins a new one.
        """
        if self.exhausted:
            return Searcher.FINISHED
        if self._resumed and self._resumed[0].trial_id == trial_id:
            return self._resume(self._resumed.pop(0))
        self.new_trials -= 1
        trial = self._study.ask(self._sampler_of(len(self._study.trials())))
        return self._begin(trial, trial_id, attempt=1)

    def _resume(self, resumed: ResumedTrial) -> dict[str, Any]:
        sampler = self._sampler_of(resumed.number)
        if not self._study.trial(resumed.number).has_params:
            sampler = fixed(self._drawn_uninterrupted(resumed.number), sampler)
        trial = self._study.reopen(resumed.number, sampler)
        return self._begin(trial, resumed.trial_id, resumed.attempt)

    def _sampler_of(self, number: int) -> BaseSampler:
        """Return the sampler of a trial; attempts at others before it do not count."""
        before = self._study.trials()[:number]
        return self._sampler(sum(trial.follows is None for trial in before))

    def _drawn_uninterrupted(self, number: int) -> dict[str, Any]:
        """Draw a trial's parameters, in Optuna's names, as they would have been without the interruption.

        A process that dies while it draws leaves a trial with some of them. The rest would come out
        differently if they were drawn first, so all are drawn again, in a copy of the study.
        """
        trial = self._study.copy_before(number, self._sampler_of(number)).ask()
        self._space.suggest(trial)
        return trial.params

    def _begin(self, trial: optuna.Trial, trial_id: str, attempt: int) -> dict[str, Any]:
        params = self._space.suggest(trial)
        config = self._space.apply(self._base, params)
        self._study.record_start(trial, trial_id, params, attempt, self._clock())
        self._live[trial_id] = trial.number
        files = self._files(trial_id) if self._files else None
        return Suggestion(config, params, trial.number, attempt, files).to_ray()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report the intermediate value."""
        if (number := self._live_number(trial_id)) is not None:
            self._report(number, MetricsRecord(result))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Report how the trial ended.

        A trial that Ray ended with an error is reported with its last record if it has one. The value of a
        complete trial is that of its last record; a pruned one's is its last intermediate value.
        """
        if (number := self._live_number(trial_id)) is None:
            return
        record = MetricsRecord(result or {})
        outcome = record.outcome(error=error)
        if outcome.state is TrialState.COMPLETED and self._objective.value(record) is None:
            outcome = Outcome(TrialState.FAILED, f"the last record has no finite {self._objective.metric}")
        self._end(number, record, outcome)
        del self._live[trial_id]
        self._give_up_if_hopeless(outcome)

    def report_end(self, number: int, record: MetricsRecord, outcome: Outcome) -> None:
        """Report an end that an earlier process did not live to report."""
        self._study.reopen(number, self._sampler_of(number))
        self._end(number, record, outcome)

    def resume_trial(self, resumed: ResumedTrial) -> None:
        """Give a trial of the study to Ray before anything new is asked for."""
        self._resumed.append(resumed)

    def attempt_again(self, number: int, trial_id: str, begins_from: str | None) -> int:
        """Add another attempt at a trial that has ended.

        Args:
            number: the trial that has ended.
            trial_id: the attempt's id.
            begins_from: the checkpoint it starts from, as `TRIAL_ID/CHECKPOINT`; `None`: from the beginning.

        Returns:
            The attempt's number.
        """
        return self._study.enqueue_attempt(number, trial_id, begins_from)

    def suspend(self) -> None:
        """Set whatever still runs waiting, so that nothing stays `RUNNING` and all of it can be resumed."""
        for trial_id in list(self._live):
            if (number := self._live_number(trial_id)) is not None:
                self._study.set_waiting(number)
        self._live.clear()

    def _give_up_if_hopeless(self, outcome: Outcome) -> None:
        """Stop suggesting if the first trials have all failed, and all in the same way."""
        if outcome.state is not TrialState.FAILED or self._failures is None:
            self._failures = None
            return
        self._failures.append(str(outcome.reason))
        if len(self._failures) == HOPELESS and len(set(self._failures)) == 1:
            self.given_up = f"the first {HOPELESS} trials all failed in the same way: {outcome.reason}"

    def save(self, checkpoint_path: str) -> None:
        """Write which trials are live; the study itself is in its storage."""
        Path(checkpoint_path).write_text(json.dumps(self._live), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Read which trials were live; the study is opened from its storage."""
        self._live = json.loads(Path(checkpoint_path).read_text(encoding="utf-8"))

    def _live_number(self, trial_id: str) -> int | None:
        """Return the study's number of a live Ray trial; `None` if it is unknown or has ended."""
        number = self._live.get(trial_id)
        # A trial that was live when the searcher was saved may have ended since: the storage is the truth.
        if number is not None and self._study.trial(number).frozen.state.is_finished():
            del self._live[trial_id]
            return None
        return number

    def _report(self, number: int, record: MetricsRecord) -> None:
        if STEP in record:
            self._study.report(number, record.step, record.get(ATTEMPT), self._objective.value(record))

    def _end(self, number: int, record: MetricsRecord, outcome: Outcome) -> None:
        self._report(number, record)
        # A constraint above 0 marks what does not fit the device.
        infeasible = 1.0 if outcome.state is TrialState.OOM else 0.0
        self._study.live(number).set_constraint("fits the device", infeasible)
        completed = outcome.state is TrialState.COMPLETED
        self._study.record_end(
            number,
            _OPTUNA_STATES.get(outcome.state, optuna.trial.TrialState.FAIL),
            outcome,
            self._objective.value(record) if completed else None,
            self._clock(),
        )
