"""A run of job type `search` beside the trials' runs: how the search as a whole does.

It has a row for each trial that ends (its value, the best so far, how many ended in which state) on an axis
that counts ended trials, and tables that are rebuilt from all trials each time: `leaderboard`, `rungs`,
`importance` and `best_predictions`. At its end it has the search's report. A resumed search continues it. Its
notes say how to read the group.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import wandb

from trainable import records
from trainable.cost import Cost
from trainable.records import MetricsRecord, Outcome, TrialState
from trainable.tracking.rows import RunLog, predictions_table
from trainable.tracking.trials import PastTrial, RunGroup, TrackedTrial

JOB_TYPE = "search"
TABLES_S = 60.0
"""The shortest time between two versions of the tables, while the search runs."""


def summary_run_id(group: RunGroup) -> str:
    """Return the id of a search's summary run: that of an earlier process, if there was one."""
    for folder in sorted((group.directory / "wandb").glob("*run-*-search-????????")):
        return f"search-{folder.name.rpartition('-')[2]}"
    place = f"{group.group}\0{group.directory.absolute()}"
    return f"search-{hashlib.sha256(place.encode()).hexdigest()[:8]}"


def summary_notes(group: RunGroup, project_url: str | None) -> str:
    """Return how to read the group, and where it is if the project has a URL, as the run's notes."""
    metric = group.objective.metric
    direction = "lowest" if group.objective.mode == "min" else "highest"
    return (
        f"Search '{group.group}': its trials are the runs of this group with job type `trial`. The best is "
        f"the one with the {direction} `best/{metric}`. Group the runs table by `trial_state` to see how "
        f"trials ended, and plot `best/{metric}` against the keys in `searched.parameters` in a parallel "
        f"coordinates panel. The best adapter is `{group.collection}:best`. The tables and the report of the "
        "search, with slices, contours and importance, are in this run."
        + (f" The group: {project_url}/groups/{quote(group.group, safe='')}/workspace" if project_url else "")
    )


@dataclass
class _Line:
    """One trial in the leaderboard."""

    trial_id: str
    number: int | None
    state: str
    params: Mapping[str, Any]
    value: float | None = None
    best_step: int | None = None
    steps: int = 0
    seconds: float = 0.0
    begin: float | None = None


class SearchSummary:
    """The search's own run; called from one thread."""

    def __init__(self, log: RunLog, group: RunGroup, logged: set[int]) -> None:
        """Take up the trials of earlier processes.

        Args:
            log: of the summary run.
            group: what the search's runs share.
            logged: numbers of ended trials that the run has a row for.
        """
        self.log = log
        self._group = group
        self._logged = logged
        self._lines = {one.trial_id: _past_line(one) for one in group.past}
        self._cost = Cost.of(group.earlier)
        self._tokens_before = self._cost.tokens
        self._predictions: Sequence[Mapping[str, Any]] = ()
        self._began = time.monotonic()
        self._ended_here = 0
        self._tables_at = 0.0

    def begin(self, trial: TrackedTrial) -> None:
        """Add a trial that starts or is continued."""
        line = self._lines.get(trial.trial_id)
        if line is None:
            line = _Line(trial.trial_id, trial.number, TrialState.RUNNING.value, trial.params)
            self._lines[trial.trial_id] = line
        line.begin = time.monotonic()

    def record(self, trial_id: str, record: MetricsRecord) -> None:
        """Take note of a trial's record."""
        line = self._lines[trial_id]
        line.steps = max(line.steps, record.step)
        self._cost.add(trial_id, record, time.time())
        value, objective = self._group.objective.value(record), self._group.objective
        if objective.is_better(value, line.value):
            line.value, line.best_step = value, record.step
            if record.get(records.PREDICTIONS) and self._best() is line:
                self._predictions = record[records.PREDICTIONS]

    def end(self, trial_id: str, outcome: Outcome) -> None:
        """Log the row of a trial that has ended, and now and then the tables."""
        line = self._lines[trial_id]
        line.state = outcome.state.value
        line.seconds += time.monotonic() - line.begin if line.begin is not None else 0.0
        line.begin = None
        if not outcome.state.is_terminal:
            return
        self._ended_here += 1
        counts = self._counts()
        ended = sum(count for state, count in counts.items() if TrialState(state).is_terminal)
        best = self._best()
        metric = self._group.objective.metric
        if ended not in self._logged:
            self._logged.add(ended)
            row = {records.STEP: ended, f"trial/{metric}": line.value, "trial/number": line.number}
            row |= {f"best/{metric}": best.value if best else None}
            row |= {f"trials/{state}": count for state, count in counts.items()}
            self.log.log({key: value for key, value in row.items() if value is not None})
        if time.monotonic() >= self._tables_at:
            self.write_tables()

    def write_tables(self) -> None:
        """Log all tables, and the totals in the run's summary."""
        self._tables_at = time.monotonic() + TABLES_S
        step = max(self._logged, default=0)
        self.log.log_table(self._leaderboard(), "leaderboard", step)
        if self._group.rungs:
            lines = self._lines.values()
            reached = [[rung, sum(line.steps >= rung for line in lines)] for rung in self._group.rungs]
            self.log.log_table(wandb.Table(columns=["step", "trials"], data=reached), "rungs", step)
        if self._group.importance is not None and (shares := self._group.importance()):
            columns = ["parameter", "importance"]
            rows = [[name, share] for name, share in shares.items()]
            self.log.log_table(wandb.Table(columns=columns, data=rows), "importance", step)
        if self._predictions:
            self.log.log_table(predictions_table(self._predictions), "best_predictions", step)
        best, hours = self._best(), (time.monotonic() - self._began) / 3600
        totals: dict[str, Any] = {f"trials/{state}": count for state, count in self._counts().items()}
        totals["trial_hours"] = sum(line.seconds for line in self._lines.values()) / 3600
        totals["device_hours"] = self._cost.device_s / 3600
        totals["tokens"] = self._cost.tokens
        tokens = self._cost.tokens - self._tokens_before
        totals["tokens_per_second"] = tokens / (hours * 3600) if hours > 0 else 0.0
        totals["trials_per_hour"] = self._ended_here / hours if hours > 0 else 0.0
        if best is not None:
            totals |= {"best/trial": best.number, "best/run": best.trial_id, "best/step": best.best_step}
            totals |= {f"best/{self._group.objective.metric}": best.value}
            totals |= {f"best/{key}": value for key, value in best.params.items()}
        self.log.run.summary.update(totals)

    def write_page(self) -> None:
        """Log the search's report."""
        if self._group.page is not None:
            page = wandb.Html(self._group.page(), inject=False)
            self.log.log({records.STEP: max(self._logged, default=0), "report": page})

    def _leaderboard(self) -> wandb.Table:
        keys = sorted({key for line in self._lines.values() for key in line.params})
        metric = f"best/{self._group.objective.metric}"
        columns = ["trial", "run", "state", metric, "best/step", "steps", "hours", *keys]
        table = wandb.Table(columns=columns, allow_mixed_types=True)
        for line in sorted(self._lines.values(), key=self._rank):
            values = (line.params.get(key) for key in keys)
            plain = (str(value) if isinstance(value, list | tuple | dict) else value for value in values)
            head = [line.number, line.trial_id, line.state, line.value, line.best_step, line.steps]
            table.add_data(*head, line.seconds / 3600, *plain)
        return table

    def _rank(self, line: _Line) -> tuple[bool, float]:
        return line.value is None, 0.0 if line.value is None else self._group.objective.cost(line.value)

    def _best(self) -> _Line | None:
        best = min(self._lines.values(), key=self._rank, default=None)
        return best if best is not None and best.value is not None else None

    def _counts(self) -> Counter[str]:
        return Counter(line.state for line in self._lines.values())


def _past_line(past: PastTrial) -> _Line:
    return _Line(
        trial_id=past.trial_id,
        number=past.number,
        state=past.state.value,
        params=past.params,
        value=past.value,
        best_step=past.best_step,
        steps=past.steps,
        seconds=past.seconds,
    )
