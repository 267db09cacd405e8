"""One view of a search: in the search's own terminal, and by `loratune status` in any other.

The caller gathers what it knows into a `SearchView`; how that looks is decided here and nowhere else.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from trainable.config import TrialConfig
from trainable.objective import Objective
from trainable.records import DEVICE, TRAIN_TOKENS_PER_SECOND, MetricsRecord, TrialState
from tune.read import format
from tune.read.tables import Column, FittingTable

NO_LIMIT = 1_000_000
"""The height of what is not a terminal."""
_BAR_WIDTH = 24
_LINES_AROUND_TABLE = 7
"""Header, blank line, table head, the line that counts what is left out, and the cursor's."""


@dataclass(frozen=True)
class TrialRow:
    """One trial as it is shown. Replaced as a unit: the view is drawn by another thread.

    Attributes:
        number: the trial's.
        params: its parameters by dotted key.
        config: everything it is configured by, where that is known.
        state: running, or how it ended.
        record: its last.
        best: its best objective.
        best_step: the step of that.
        ended_at: on any clock that all rows share.
    """

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
        """Optimizer steps taken."""
        return self.record.step

    @property
    def max_steps(self) -> int | None:
        """Optimizer steps of the full trial."""
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


@dataclass(frozen=True)
class SearchView:
    """What is known of a search at one moment.

    Attributes:
        experiment: its name.
        objective: what it optimizes.
        num_trials: trials it will have tried when it is done.
        rows: the trials that have begun.
        best: the row with the best objective.
        rungs: the steps at which the scheduler decides; empty: no column for them.
        elapsed: what is said of the time so far, such as `3m 05s`.
        left_s: seconds to the end; `None`: unknown.
        rate: optimizer steps per second; `None`: unknown.
        notes: lines that follow the header.
    """

    experiment: str
    objective: Objective
    num_trials: int
    rows: Sequence[TrialRow]
    best: TrialRow | None
    rungs: Sequence[int]
    elapsed: str
    left_s: float | None = None
    rate: float | None = None
    notes: Sequence[Text] = ()


def render(view: SearchView, height: int) -> RenderableType:
    """Return the view, at most `height` lines high."""
    running = sorted((row for row in view.rows if not row.state.is_terminal), key=lambda row: row.number)
    ended = sorted((row for row in view.rows if row.state.is_terminal), key=lambda row: -row.ended_at)
    room = max(height - _LINES_AROUND_TABLE - len(view.notes), 1)
    shown, hidden = (running + ended)[:room], len(view.rows) - room
    parts: list[RenderableType] = [*header(view), *view.notes, ""]
    if shown:
        parts.append(_table(view, shown))
    if hidden > 0:
        parts.append(Text(f"  … and {hidden} more", "dim"))
    return Group(*parts)


def header(view: SearchView) -> list[Text]:
    """Return three lines: how far, how fast, how good; none is ever broken."""
    counts = Counter(row.state for row in view.rows)
    num_trials = max(view.num_trials, len(view.rows))
    counts[TrialState.PENDING] += num_trials - len(view.rows)
    ended = sum(row.state.is_terminal for row in view.rows)
    filled = round(_BAR_WIDTH * ended / num_trials) if num_trials else 0
    left = f", about {format.duration(view.left_s)} left" if view.left_s is not None else ""
    far = Text.assemble(
        (view.experiment, "bold"),
        "  ",
        ("━" * filled, "green"),
        ("─" * (_BAR_WIDTH - filled), "dim"),
        f"  {ended}/{num_trials} trials  {view.elapsed}",
        (left, "dim"),
    )
    fast = Text("  ").append_text(format.counts_text(counts))
    if view.rate is not None:
        fast.append(f"  {format.compact(view.rate)} steps/s", "dim")
    best, good = view.best, Text("  no score yet", "dim")
    if best:
        good = Text("  best ").append_text(
            format.best_line(view.objective.metric, best.best, best.number, best.best_step, best.params)
        )
    for line in (far, fast, good):
        line.no_wrap, line.overflow = True, "ellipsis"
    return [far, fast, good]


def _table(view: SearchView, rows: Sequence[TrialRow]) -> RenderableType:
    def values(key: str) -> list[str]:
        return [format.setting(row.parameter(key)) for row in rows]

    metric = view.objective.metric
    speeds = [
        row.record.get(TRAIN_TOKENS_PER_SECOND) if row.state is TrialState.RUNNING else None for row in rows
    ]
    columns = [
        Column("#", [str(row.number) for row in rows]),
        Column("state", [format.state_text(row.state) for row in rows], right=False),
        Column("", [_bar(row) for row in rows], right=False, expendable=6),
        Column("rung", [_rung(row, view.rungs) for row in rows], expendable=3),
        Column("step", [f"{row.step}/{row.max_steps or '?'}" for row in rows]),
        Column(
            format.metric_title(metric),
            [format.score(view.objective.value(row.record)) for row in rows],
        ),
        Column("best", [_best_cell(row, view.best) for row in rows]),
        Column("lr", values("training.learning_rate")),
        Column("r", values("lora.r")),
        Column("alpha", values("lora.alpha")),
        Column("tok/s", [format.compact(speed) for speed in speeds], expendable=2),
        Column("device", [row.record.get(DEVICE, format.ABSENT) for row in rows], expendable=4),
        Column("try", [str(row.record.attempt) for row in rows], expendable=5),
    ]
    return FittingTable([column for column in columns if column.title != "rung" or view.rungs])


def _rung(row: TrialRow, rungs: Sequence[int]) -> str:
    reached = sum(row.step >= rung for rung in rungs)
    # A pruned trial was stopped at the last rung it reached.
    passed = reached - (row.state is TrialState.PRUNED and reached > 0)
    return f"{passed}/{len(rungs)}"


def _best_cell(row: TrialRow, best: TrialRow | None) -> Text:
    leads = best is not None and row.number == best.number
    return Text(format.score(row.best), "bold green" if leads else "")


def _bar(row: TrialRow) -> Text:
    filled = round(8 * min(row.step / row.max_steps, 1)) if row.max_steps else 0
    return Text.assemble(("━" * filled, format.STYLES[row.state]), ("─" * (8 - filled), "dim"))
