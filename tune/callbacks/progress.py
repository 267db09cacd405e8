"""What a person sees while a search runs.

On a terminal it is one view that refreshes itself: how far the search is, the best so far, and a table of the
trials that run or ended lately; only a trial that went wrong leaves a line of its own above. Elsewhere, in a
pipe or a log file, it is one plain line an event. Nothing here can end a search: the view is left, and the
terminal put back as it was, however the `with` block ends.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from ray import tune as ray_tune
from ray.tune.experiment import Trial
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from trainable.config import TrialConfig
from trainable.objective import Objective
from trainable.records import DEVICE, TRAIN_TOKENS_PER_SECOND, MetricsRecord, TrialState
from trainable.suggestion import Suggestion
from tune.read import format
from tune.read.tables import Column, FittingTable
from tune.store.reader import TrialView

_BAR_WIDTH = 24
_LINES_AROUND_TABLE = 7
"""Header, blank line, table head, the line that counts what is left out, and the cursor's."""
_UNUSUAL = (TrialState.DIVERGED, TrialState.OOM, TrialState.FAILED)


@dataclass(frozen=True)
class _Row:
    """One trial as it is shown. Replaced as a whole: the view is drawn by another thread."""

    number: int
    params: Mapping[str, Any]
    config: TrialConfig | None = None
    state: TrialState = TrialState.RUNNING
    record: MetricsRecord = dataclasses.field(default_factory=MetricsRecord)
    best: float | None = None
    best_step: int = 0
    ended_at: float = 0.0

    @property
    def step(self) -> int:
        return self.record.step

    @property
    def max_steps(self) -> int | None:
        return self.record.max_steps

    @property
    def share(self) -> float:
        """The part of its work that needs no more time."""
        return (
            1.0 if self.state.is_terminal else min(self.step / self.max_steps, 1.0) if self.max_steps else 0.0
        )

    def parameter(self, key: str) -> Any:
        """Return the trial's value of a dotted key, searched or not."""
        if key in self.params or self.config is None:
            return self.params.get(key)
        section, name = key.split(".")
        return getattr(getattr(self.config, section), name)


class Progress(ray_tune.Callback):
    """Shows a running search; enter it around `Tuner.fit`.

    Args:
        console: where to write; a terminal gets the refreshing view.
        objective: what the search optimizes.
        num_trials: trials the search will try.
        experiment: its name, for the header.
        rungs: the steps at which the scheduler decides; empty: no column for them.
        earlier: the trials that an earlier run of the search has begun.
        fault: returns the fault of the infrastructure that a trial has just met, by its id, if it was one.
        clock: a clock in seconds that never goes back.
    """

    def __init__(
        self,
        console: Console,
        *,
        objective: Objective,
        num_trials: int,
        experiment: str = "search",
        rungs: Sequence[int] = (),
        earlier: Sequence[TrialView] = (),
        fault: Callable[[str], str | None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._objective = objective
        self._metric = objective.metric
        self._num_trials = num_trials
        self._experiment = experiment
        self._rungs = tuple(rungs)
        self._fault = fault
        self._clock = clock
        self._began = clock()
        self._trials_began: float | None = None
        self._steps_here = 0
        self._ended_before = 0
        self._rows: dict[str, _Row] = {}
        self._best: _Row | None = None
        self._live: Live | None = None
        self._plain = False
        for trial in earlier:
            self._take_in(trial)

    def __enter__(self) -> Self:
        """Start showing."""
        self._began = self._clock()
        self._plain = not self._console.is_interactive
        if not self._plain:
            self._live = Live(
                console=self._console, get_renderable=self.view, refresh_per_second=2, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the terminal back, and leave the last figures on it."""
        if self._live:
            self._live.stop()
            self._live = None
        for line in self._header():
            self._console.print(line.plain if self._plain else line, soft_wrap=self._plain, highlight=False)
        self._plain = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave terminal, view and cluster behind: Ray pickles its callbacks."""
        return self.__dict__ | {"_console": None, "_live": None, "_plain": False, "_fault": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Come back as one that shows nothing."""
        self.__dict__ |= state | {"_console": Console(quiet=True)}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Show the trial as running, from its first attempt or a later one."""
        if self._trials_began is None:
            self._trials_began = self._clock()
        again = trial.trial_id in self._rows
        row = self._row_of(trial)
        row = dataclasses.replace(row, state=TrialState.RUNNING)
        self._rows[trial.trial_id] = row
        word = "started again" if again else "started"
        self._say(f"trial {row.number} {word}: {format.parameters(row.params)}")

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Say that the trial failed and will be started again."""
        row = self._row_of(trial)
        self._rows[trial.trial_id] = dataclasses.replace(row, state=TrialState.PENDING)
        fault = self._fault(trial.trial_id)
        line = f"trial {row.number} failed at step {row.step} and will be started again"
        if fault:
            line = (
                f"trial {row.number} was interrupted at step {row.step} and will be started again, "
                f"which does not count as a failure: {fault}"
            )
        self._say(line, unusual=True)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Take the trial's newest record."""
        before = self._row_of(trial)
        row = dataclasses.replace(before, record=MetricsRecord(result))
        self._steps_here += max(row.step - before.step, 0)
        value = self._objective.value(result)
        first = value is not None and before.best is None
        if self._objective.is_better(value, before.best):
            row = dataclasses.replace(row, best=value, best_step=row.step)
        self._rows[trial.trial_id] = row
        leads = self._objective.is_better(value, self._best.best if self._best else None)
        if leads:
            self._best = row
        if first or leads:
            word = "first score" if first else "new best"
            scored = f"{self._metric} {format.score(value)} at step {row.step}"
            self._say(f"trial {row.number} {word}: {scored}{', the best so far' if first and leads else ''}")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Show what became of the trial."""
        self._end(trial, error=False)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Show what became of the trial."""
        self._end(trial, error=True)

    def _take_in(self, trial: TrialView) -> None:
        """Show a trial as an earlier run has left it."""
        state = trial.state if trial.state.is_terminal else TrialState.PENDING
        best = MetricsRecord(trial.best_metrics)
        value = self._objective.value(best)
        record = MetricsRecord(trial.metrics)
        row = _Row(trial.number, trial.params, None, state, record, value, best.step, self._began)
        self._rows[trial.trial_id] = row
        self._ended_before += state.is_terminal
        if self._objective.is_better(value, self._best.best if self._best else None):
            self._best = row

    def view(self) -> RenderableType:
        """Return what the terminal shows now, at most as high as it is."""
        rows = list(self._rows.values())
        running = sorted((row for row in rows if not row.state.is_terminal), key=lambda row: row.number)
        ended = sorted((row for row in rows if row.state.is_terminal), key=lambda row: -row.ended_at)
        room = max(self._console.height - _LINES_AROUND_TABLE, 1)
        shown, hidden = (running + ended)[:room], len(rows) - room
        parts: list[RenderableType] = [*self._header(), ""]
        if shown:
            parts.append(self._table(shown))
        if hidden > 0:
            parts.append(Text(f"  … and {hidden} more", "dim"))
        return Group(*parts)

    def _header(self) -> list[Text]:
        """Return three lines: how far, how fast, how good; none is ever broken."""
        rows = list(self._rows.values())
        counts = Counter(row.state for row in rows)
        num_trials = max(self._num_trials, len(rows))
        counts[TrialState.PENDING] += num_trials - len(rows)
        ended = sum(row.state.is_terminal for row in rows)
        filled = round(_BAR_WIDTH * ended / num_trials)
        far = Text.assemble(
            (self._experiment, "bold"),
            "  ",
            ("━" * filled, "green"),
            ("─" * (_BAR_WIDTH - filled), "dim"),
            f"  {ended}/{num_trials} trials  {format.duration(self._clock() - self._began)}",
            (self._time_left(rows), "dim"),
        )
        fast = Text("  ").append_text(format.counts_text(counts))
        if self._trials_began is not None and self._steps_here:
            rate = self._steps_here / max(self._clock() - self._trials_began, 1e-9)
            fast.append(f"  {format.compact(rate)} steps/s", "dim")
        best = self._best
        good = Text("  no score yet", "dim")
        if best:
            good = Text("  best ").append_text(
                format.best_line(self._metric, best.best, best.number, best.best_step, best.params)
            )
        for line in (far, fast, good):
            line.no_wrap, line.overflow = True, "ellipsis"
        return [far, fast, good]

    def _time_left(self, rows: Sequence[_Row]) -> str:
        done = sum(row.share for row in rows) - self._ended_before
        total = self._num_trials - self._ended_before
        if self._trials_began is None or not 0 < done < total:
            return ""
        left = (self._clock() - self._trials_began) * (total - done) / done
        return f", about {format.duration(left)} left"

    def _table(self, rows: Sequence[_Row]) -> RenderableType:
        def values(key: str) -> list[str]:
            return [format.setting(row.parameter(key)) for row in rows]

        speeds = [None if row.state.is_terminal else row.record.get(TRAIN_TOKENS_PER_SECOND) for row in rows]
        columns = [
            Column("#", [str(row.number) for row in rows]),
            Column("state", [format.state_text(row.state) for row in rows], right=False),
            Column("", [_bar(row) for row in rows], right=False, expendable=6),
            Column("rung", [self._rung(row) for row in rows], expendable=3),
            Column("step", [f"{row.step}/{row.max_steps or '?'}" for row in rows]),
            Column(
                format.metric_title(self._metric),
                [format.score(self._objective.value(row.record)) for row in rows],
            ),
            Column("best", [self._best_cell(row) for row in rows]),
            Column("lr", values("training.learning_rate")),
            Column("r", values("lora.r")),
            Column("alpha", values("lora.alpha")),
            Column("tok/s", [format.compact(speed) for speed in speeds], expendable=2),
            Column("device", [row.record.get(DEVICE, format.ABSENT) for row in rows], expendable=4),
            Column("try", [str(row.record.attempt) for row in rows], expendable=5),
        ]
        return FittingTable([c for c in columns if c.title != "rung" or self._rungs])

    def _rung(self, row: _Row) -> str:
        reached = sum(row.step >= rung for rung in self._rungs)
        # A pruned trial was stopped at the last rung it reached.
        passed = reached - (row.state is TrialState.PRUNED and reached > 0)
        return f"{passed}/{len(self._rungs)}"

    def _best_cell(self, row: _Row) -> Text:
        leads = self._best is not None and row.number == self._best.number
        return Text(format.score(row.best), "bold green" if leads else "")

    def _end(self, trial: Trial, *, error: bool) -> None:
        row = self._row_of(trial)
        outcome = row.record.outcome(error=error)
        state = outcome.state
        self._rows[trial.trial_id] = dataclasses.replace(row, state=state, ended_at=self._clock())
        ended = sum(row.state.is_terminal for row in self._rows.values())
        line = f"trial {row.number} {state.value}: {outcome.reason or f'all {row.step} steps'}"
        if row.best is not None:
            line += f"; its best {self._metric} {format.score(row.best)} at step {row.best_step}"
        self._say(
            f"{line} ({ended}/{max(self._num_trials, len(self._rows))} done)", unusual=state in _UNUSUAL
        )

    def _say(self, line: str, *, unusual: bool = False) -> None:
        """Write a line where there is no view; in a view only what is unusual is worth one."""
        if self._plain or (self._live and unusual):
            stamped = f"{format.duration(self._clock() - self._began):>7}  {line}"
            self._console.print(
                stamped, soft_wrap=True, markup=False, highlight=False, style="" if self._plain else "red"
            )

    def _row_of(self, trial: Trial) -> _Row:
        """Return the trial's row, a new one for a trial of which this is the first event."""
        if trial.trial_id in self._rows and self._rows[trial.trial_id].config is not None:
            return self._rows[trial.trial_id]
        suggestion = Suggestion.from_ray(trial.config)
        row = self._rows.get(trial.trial_id) or _Row(suggestion.number, suggestion.params)
        return dataclasses.replace(row, params=suggestion.params, config=suggestion.config)


def _bar(row: _Row) -> Text:
    filled = round(8 * min(row.step / row.max_steps, 1)) if row.max_steps else 0
    return Text.assemble(("━" * filled, format.STYLES[row.state]), ("─" * (8 - filled), "dim"))
