"""Optuna behind Ray Tune's `Searcher`: every trial's progress and end reach the study as they are.

Each Ray trial is one Optuna trial. The study
lives in a durable storage, by default a journal file in the experiment's folder, and holds immediately:

- intermediate values with their step, including the one at which the scheduler stopped the trial;
- `COMPLETE` for a trial that ran to its end, `PRUNED` for one that the scheduler stopped, `FAIL` with the
  reason for one that diverged, did not fit, or whose process died;
- Ray's trial id, the W&B run id, the resolved parameters, times and attempts, as user attributes.

What the sampler makes of these is decided in `tune.search.sampling_view`.

The storage is the source of truth. Nothing of the study is pickled: a pickled searcher knows where its
storage is and opens it again.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from search_spaces import Space
from trainable.config import TrialConfig
from trainable.cost import Cost
from trainable.objective import finite
from trainable.records import ATTEMPT, STEP, MetricsRecord, Outcome, TrialState
from trainable.suggestion import Suggestion, TrialFiles
from tune.search.ending import EarlyEnd, is_infrastructure_fault
from tune.search.sampling import Draw, Sampling
from tune.search.warm_start import NOTE, as_trials
from tune.sections import SearchConfig
from tune.store.study import StudyStore

_ENQUEUED = "enqueued"
"""The note of the study that holds the points that were enqueued after the search began."""


@dataclass(frozen=True)
class ResumedTrial:
    """A trial of the study that Ray has to be given again.

    Attributes:
        number: in the study.
        trial_id: the id that it keeps.
        attempt: 1, plus one for each time the trial was resumed.
        checkpoint: the folder, a path or URI, that it starts from; `None`: from the beginning.
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
        ended_early: why nothing more is suggested before that; `None` while there is no reason.
    """

    def __init__(
        self,
        space: Space,
        base: TrialConfig,
        study: StudyStore,
        search: SearchConfig,
        *,
        new_trials: int,
        files: Callable[[str], TrialFiles] | None = None,
        resumed: Sequence[ResumedTrial] = (),
        first: Mapping[str, Any] | None = None,
        spent: Cost | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Search a space.

        Args:
            space: what is searched.
            base: the configuration that a suggestion is put into.
            study: where the trials are kept.
            search: how trials are drawn, and when the search ends early. What is drawn depends on the seed,
                the trial's number and the study, so an interrupted search draws what it would have drawn
                without the interruption.
            new_trials: how many may be asked for.
            files: gives a trial's paths by its id.
            resumed: trials of the study that Ray is given first.
            first: the space's first point, as `Space.first_point` returns it.
            spent: what trials have cost before.
            clock: unix time in seconds.
        """
        objective = study.objective
        super().__init__(metric=objective.metric, mode=objective.mode)
        self._space = space
        self._base = base
        self._study = study
        self._objective = objective
        earlier = as_trials(study.note(NOTE) or (), space)
        self._sampling = Sampling(search, space, search.objectives, first, earlier)
        self._early_end = EarlyEnd(search, space, spent or Cost())
        self._files = files
        self.new_trials = new_trials
        self._resumed = list(resumed)
        self.ended_early: str | None = None
        self._clock = clock
        self._live: dict[str, int] = {}

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing more to suggest."""
        return self.ended_early is not None or not (self._resumed or self.new_trials)

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
        trials = self._study.trials()
        self.ended_early = self._early_end.reason(trials)
        if self.ended_early is not None:
            return Searcher.FINISHED
        draw = self._sampling.draw(trials, self._study.note(_ENQUEUED) or ())
        if draw is None:
            self.ended_early = "every configuration of the space has been tried"
            return Searcher.FINISHED
        return self._begin(draw, trial_id)

    def _begin(self, draw: Draw, trial_id: str) -> dict[str, Any]:
        params = draw.point.params
        config = self._space.apply(self._base, params)
        self.new_trials -= 1
        number = self._study.begin(
            trial_id,
            draw.point.drawn,
            draw.distributions,
            params,
            self._clock(),
            sampler_attrs=draw.sampler_attrs,
            enqueued=draw.enqueued,
        )
        self._live[trial_id] = number
        return Suggestion(config, params, number, 1, self._files_of(trial_id)).to_ray()

    def _resume(self, resumed: ResumedTrial) -> dict[str, Any]:
        number, trial_id = resumed.number, resumed.trial_id
        trial = self._study.trial(number)
        if not trial.has_params:
            draw = self._sampling.complete(self._study.trials()[:number], trial.frozen.params)
            self._study.set_params(number, draw.point.drawn, draw.distributions, draw.point.params)
        self._study.begin_again(number, trial_id, resumed.attempt, self._clock())
        trial = self._study.trial(number)
        params, files = trial.params, self._files_of(trial_id)
        config = self._space.apply(self._base, params)
        self._live[trial_id] = number
        suggestion = Suggestion(config, params, number, resumed.attempt, files, follows=trial.follows)
        return suggestion.to_ray()

    def _files_of(self, trial_id: str) -> TrialFiles | None:
        return self._files(trial_id) if self._files else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report the intermediate value."""
        record = MetricsRecord(result)
        self._early_end.on_record(trial_id, record, self._clock())
        if (number := self._live_number(trial_id)) is not None:
            self._report(number, record)

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
        if outcome.state is TrialState.COMPLETED and self._objective.measured(record) is None:
            outcome = Outcome(TrialState.FAILED, f"the last record has no finite {self._objective.metric}")
        failed = outcome.state is TrialState.FAILED
        infrastructure = failed and error and is_infrastructure_fault(record.reason)
        self._end(number, record, outcome, infrastructure=infrastructure)
        del self._live[trial_id]
        if infrastructure:
            self._early_end.add_fault(outcome)
        else:
            self._early_end.add(outcome)

    def report_end(self, number: int, record: MetricsRecord, outcome: Outcome) -> None:
        """Report an end that an earlier process did not live to report."""
        self._study.set_running(number)
        self._end(number, record, outcome)

    def enqueue(self, point: Mapping[str, Any]) -> None:
        """Try a known point next, in the place of a suggestion; if none is left, in addition.

        Args:
            point: values by dotted key, for some or all axes.

        Raises:
            SpaceError: the point is not in the space.
        """
        point = self._space.known_point(point, "the enqueued point")
        self._study.set_note(_ENQUEUED, [*(self._study.note(_ENQUEUED) or ()), point])
        self.new_trials = max(self.new_trials, 1)

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
        """Set all running trials waiting, so that none stays `RUNNING` and each can be resumed."""
        for trial_id in list(self._live):
            if (number := self._live_number(trial_id)) is not None:
                self._study.set_waiting(number)
        self._live.clear()

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
            self._study.report(number, record.step, record.get(ATTEMPT), self._objective.measured(record))

    def _end(
        self, number: int, record: MetricsRecord, outcome: Outcome, *, infrastructure: bool = False
    ) -> None:
        self._report(number, record)
        completed = outcome.state is TrialState.COMPLETED
        value = self._objective.measured(record) if completed else None
        found = {key: finite(one) for key, one in record.metrics.items()}
        metrics = {key: one for key, one in found.items() if one is not None}
        self._study.record_end(
            number, outcome, value, self._clock(), metrics=metrics, infrastructure=infrastructure
        )
