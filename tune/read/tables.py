"""What a person reads of a search, as tables and lines. Values in, rich renderables out.

A table leaves out its least important columns where the terminal is too narrow for all of them, instead of
breaking its cells.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from trainable.objective import Objective, pareto_front
from trainable.records import EVAL_OVERALL
from tune.read.format import (
    ABSENT,
    SHORT_NAMES,
    best_text,
    better,
    counted,
    duration,
    metric_title,
    score,
    setting,
    short_name,
    state_text,
)
from tune.search.reconcile import Action

if TYPE_CHECKING:
    from trainable.evaluation.predictions import Prediction
    from tune.read.trial_table import TrialTable
    from tune.search.resume import Resumption
    from tune.store.reader import TrialView

_GAP = 2
_HEAD = "bold dim"
_PROMPT_CHARS = 160


@dataclass(frozen=True)
class Column:
    """A column of a `FittingTable`.

    Attributes:
        title: its head.
        cells: one a row.
        right: whether cells are aligned to the right, as numbers are.
        expendable: where the terminal is narrow, the column with the highest goes first; 0 stays.
    """

    title: str
    cells: Sequence[str | Text]
    right: bool = True
    expendable: int = 0

    @property
    def width(self) -> int:
        """Terminal cells that the widest of head and cells takes."""
        return max(cell_len(str(text)) for text in (self.title, *self.cells))


@dataclass(frozen=True)
class FittingTable:
    """A table of those columns that fit the terminal's width."""

    columns: Sequence[Column]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = list(self.columns)
        while sum(column.width + _GAP for column in shown) > options.max_width:
            most = max(shown, key=lambda column: column.expendable)
            if not most.expendable:
                break
            shown.remove(most)
        widths = _narrowed([column.width for column in shown], options.max_width - _GAP * len(shown))
        heads = [Text(column.title, _HEAD) for column in shown]
        # A table of rich's own takes seconds for a thousand rows.
        for cells in (heads, *zip(*(column.cells for column in shown), strict=True)):
            for column, width, cell in zip(shown, widths, cells, strict=True):
                yield Segment(" " * _GAP)
                yield from _fitted(console, cell, width, right=column.right)
            yield Segment.line()


def _narrowed(widths: list[int], room: int) -> list[int]:
    """Return widths that fit the room, for which the widest columns give way."""
    widths = list(widths)
    while sum(widths) > room and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
    return widths


def _fitted(console: Console, cell: str | Text, width: int, *, right: bool) -> Iterator[Segment]:
    """Yield a cell in one line of exactly `width` terminal cells."""
    text = cell if isinstance(cell, Text) else Text(cell)
    if "\n" in text.plain or text.cell_len > width:
        text = Text(" ").join(text.split()) if "\n" in text.plain else text.copy()
        text.truncate(width, overflow="ellipsis")
    padding = Segment(" " * (width - text.cell_len))
    if right:
        yield padding
    if text.spans:
        yield from text.render(console)
    else:
        yield Segment(text.plain, console.get_style(text.style))
    if not right:
        yield padding


def leaderboard(
    trials: Sequence["TrialView"],
    objective: Objective,
    *,
    others: Sequence[Objective] = (),
    of: Sequence["TrialView"] | None = None,
) -> RenderableType:
    """Return the table of trials, in the caller's order.

    Besides learning rate, rank and alpha it shows every other parameter that differs between trials.

    Args:
        trials: the rows; the best is the first unless something else was asked for.
        objective: what trials are ranked by.
        others: what else the search optimizes; the trials on the Pareto front are marked.
        of: all trials, best first, where `trials` are some of them in another order; gives the ranks.
    """
    everything = trials if of is None else of
    places = {trial.number: str(place) for place, trial in enumerate(everything, 1)}
    left_out = len(everything) - len(trials)
    metric = objective.metric
    common = [key for key in SHORT_NAMES if any(key in trial.params for trial in trials)]
    rare = sorted({key for trial in trials for key in trial.params} - set(common))
    varied = [key for key in rare if len({str(trial.params.get(key)) for trial in trials}) > 1]
    columns = [
        Column("rank", [places[trial.number] for trial in trials]),
        Column("trial", [str(trial.number) for trial in trials]),
        Column("state", [state_text(trial.state) for trial in trials], right=False),
        Column(
            metric_title(metric),
            [_score_cell(trial, places[trial.number] == "1", metric) for trial in trials],
        ),
        *_other_objectives(trials, everything, [objective, *others]),
        *_overall(trials, {metric, *(one.metric for one in others)}),
        Column("final", [score(trial.metrics.get(metric)) for trial in trials], expendable=3),
        *(Column(short_name(key), [setting(t.params.get(key)) for t in trials]) for key in common),
        *(
            Column(short_name(key), [setting(t.params.get(key)) for t in trials], expendable=4)
            for key in varied
        ),
        Column("steps", [str(trial.steps) for trial in trials], expendable=1),
        Column("time", [duration(trial.duration_s) for trial in trials], expendable=2),
    ]
    bounds = "".join(f", {constraint}" for constraint in objective.constraints)
    aims = "; ".join(f"{one.metric}, {better(one)} is better" for one in (objective, *others))
    title = Text.assemble(("Leaderboard", "bold"), (f"  {aims}{bounds}", "dim"))
    title.no_wrap, title.overflow = True, "ellipsis"
    if not trials:
        return Group(title, "", f"  none of {counted(left_out, 'trial')}" if left_out else "  no trials yet")
    rest = [Text(f"  {counted(left_out, 'other trial')} not shown", "dim")] if left_out else []
    return Group(title, "", FittingTable(columns), *rest)


def _overall(trials: Sequence["TrialView"], shown: set[str]) -> list[Column]:
    """Return the overall text score at the end: the validation loss does not always follow it."""
    scores = [trial.metrics.get(EVAL_OVERALL) for trial in trials]
    if EVAL_OVERALL in shown or not any(scores):
        return []
    return [Column(metric_title(EVAL_OVERALL), [score(one) for one in scores], expendable=2)]


def _other_objectives(
    trials: Sequence["TrialView"], everything: Sequence["TrialView"], objectives: Sequence[Objective]
) -> list[Column]:
    """Return the columns of the further objectives, each at the step that the trial is ranked by."""
    others = objectives[1:]
    if not others:
        return []
    front = pareto_front([trial.best_metrics for trial in everything], objectives)
    members = {everything[place].number for place in front}
    columns = [
        Column(metric_title(one.metric), [score(trial.best_metrics.get(one.metric)) for trial in trials])
        for one in others
    ]
    marks = [Text("●" if trial.number in members else "", "green") for trial in trials]
    return [*columns, Column("front", marks, right=False)]


def cells(table: "TrialTable") -> RenderableType:
    """Return a table of the columns that were asked for."""
    return FittingTable(
        [
            Column(
                name,
                [_cell(row[name]) for row in table.rows],
                right=any(isinstance(row[name], int | float) for row in table.rows),
            )
            for name in table.columns
        ]
    )


def _cell(value: Any) -> str:
    return ABSENT if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def predictions(rows: Iterable["Prediction"]) -> RenderableType:
    """Return each prediction beneath its input and reference, one below the other."""
    table = Table.grid(padding=(0, 0, 0, _GAP), pad_edge=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for number, row in enumerate(rows):
        if number:
            table.add_row()
        prompt = " ".join(row.prompt.split())
        if len(prompt) > _PROMPT_CHARS:
            prompt = f"{prompt[: _PROMPT_CHARS - 1]}…"
        table.add_row("input", Text(prompt, "dim"))
        table.add_row("reference", Text(row.reference.strip() or ABSENT))
        table.add_row("prediction", Text(row.prediction.strip() or ABSENT, "green"))
    return Group(Text("Predictions beside their references", "bold"), "", table)


def summary(
    best: "TrialView | None",
    objective: Objective,
    *,
    adapter: str | None,
    wandb_note: str | None,
    commands: Sequence[tuple[str, str]],
    test: str | None = None,
) -> RenderableType:
    """Return how the search ended, and what can be typed next.

    Args:
        best: the trial with the best objective; `None` if no trial has one.
        objective: what the search optimized.
        adapter: the best adapter's folder.
        wandb_note: where W&B has the runs, or how to send them there.
        commands: what to type, and what it does.
        test: the adapter's scores on the test rows, and how many rows these are.
    """
    facts = Table.grid(padding=(0, 0, 0, _GAP), pad_edge=True)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row(
        "best",
        best_text(best, objective) if best else Text(f"no trial has scored {objective.metric}", "bold red"),
    )
    for name, value in (("test", test), ("adapter", adapter), ("W&B", wandb_note)):
        if value is not None:
            facts.add_row(name, Text(str(value)))
    steps = Table.grid(padding=(0, 0, 0, _GAP), pad_edge=True)
    steps.add_column(overflow="fold")
    for command, purpose in commands:
        steps.add_row(Text(purpose, "dim"))
        steps.add_row(Text(f"  {command}", "cyan"))
    return Group(facts, "", Text("Next", "bold"), "", steps) if commands else facts


def _score_cell(trial: "TrialView", leads: bool, metric: str) -> Text:
    return Text(score(trial.best_metrics.get(metric)), "bold green" if leads else "")


def plan(resumption: "Resumption") -> RenderableType:
    """Return what a resumed search is about to do, trial by trial where that is more than keeping it."""
    lines = []
    for key, (before, after) in resumption.changes.items():
        lines.append(f"{key}: {before} becomes {after}")
    for corrupt in resumption.plan.corrupt:
        lines.append(f"{corrupt.problem} It is removed.")
    kept = 0
    for decision in resumption.plan.decisions:
        if decision.action is Action.KEEP:
            kept += 1
        else:
            lines.append(f"trial {decision.trial.number}: {decision.action}, {decision.why}")
    lines.append(f"{counted(kept, 'trial')} kept as they are, {resumption.plan.new_trials} new")
    if resumption.plan.nothing_to_do:
        lines.append("Nothing is left to do. Extend the search with --trials +N.")
    return "\n".join(lines)
