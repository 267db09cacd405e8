"""What a person reads of a search: numbers, words, tables. Values in, rich renderables out.

A table leaves out its least important columns where the terminal is too narrow for all of them, instead of
breaking its cells. Colour only repeats what the words say.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trainable.outcome import objective
from trainable.records import TrialState
from tune.search.reconcile import Action

if TYPE_CHECKING:
    from trainable.evaluation.predictions import Prediction
    from tune.search.resume import Resumption
    from tune.store.reader import Status, TrialView

ABSENT = "–"
"""Stands where there is no value."""

STYLES: Mapping[TrialState, str] = {
    TrialState.PENDING: "dim",
    TrialState.RUNNING: "cyan",
    TrialState.COMPLETED: "green",
    TrialState.PRUNED: "yellow",
    TrialState.DIVERGED: "magenta",
    TrialState.OOM: "bright_red",
    TrialState.FAILED: "bold red",
}

_SHORT_NAMES = {"training.learning_rate": "lr", "lora.r": "r", "lora.alpha": "alpha"}
_GAP = 2
_PROMPT_CHARS = 160


def score(value: Any) -> str:
    """Write a metric: four decimals where it is near one, two digits and an exponent where it is tiny."""
    if not isinstance(value, int | float):
        return ABSENT
    size = abs(value)
    if value and (size < 1e-3 or size >= 1e5):
        return _scientific(value)
    return f"{value:.4f}" if size < 10 else f"{value:.2f}" if size < 1000 else f"{value:.0f}"


def setting(value: Any) -> str:
    """Write a parameter: a small float as `1.2e-3`, others without trailing zeros."""
    if value is None:
        return ABSENT
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, float) and value and (abs(value) < 1e-2 or abs(value) >= 1e5):
        return _scientific(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float | None) -> str:
    """Write a time in its two largest units: `48s`, `3m 05s`, `2h 07m`, `1d 03h`."""
    if seconds is None:
        return ABSENT
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}h"
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {rest:02}s" if minutes else f"{rest}s"


def compact(count: float | None) -> str:
    """Write a count or a rate in a few characters: `870`, `12.3k`, `4.1M`."""
    if count is None:
        return ABSENT
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return f"{count:.0f}" if count >= 10 else f"{count:.2g}"


def parameters(params: Mapping[str, Any]) -> str:
    """Write parameters in a line: `lr 1.2e-3 · r 16 · alpha 32`."""
    ordered = [key for key in _SHORT_NAMES if key in params] + sorted(set(params) - set(_SHORT_NAMES))
    return " · ".join(f"{short_name(key)} {setting(params[key])}" for key in ordered)


def short_name(key: str) -> str:
    """Return what a parameter is called in tables: `lr` for `training.learning_rate`."""
    return _SHORT_NAMES.get(key, key.rpartition(".")[2])


def state_text(state: TrialState) -> Text:
    """Return the state's word in its colour."""
    return Text(state.value, STYLES[state])


def counts_text(counts: Mapping[TrialState, int]) -> Text:
    """Return `2 running · 5 pruned`, each state in its colour; states without trials are left out."""
    parts = [
        Text(f"{counts[state]} {state.value}", STYLES[state]) for state in TrialState if counts.get(state)
    ]
    return Text(" · ").join(parts)


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
        table = Table(box=None, padding=(0, 0, 0, _GAP), pad_edge=True, header_style="bold dim")
        for column in shown:
            justify: Literal["left", "right"] = "right" if column.right else "left"
            table.add_column(Text(column.title), justify=justify, no_wrap=True, overflow="ellipsis")
        for cells in zip(*(column.cells for column in shown), strict=True):
            table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))
        yield table


def leaderboard(trials: Sequence["TrialView"], metric: str, mode: Literal["min", "max"]) -> RenderableType:
    """Return the table of trials, which `tune.store.reader.leaderboard` has sorted.

    Besides learning rate, rank and alpha it shows every other parameter that differs between trials.
    """
    common = [key for key in _SHORT_NAMES if any(key in trial.params for trial in trials)]
    others = sorted({key for trial in trials for key in trial.params} - set(common))
    varied = [key for key in others if len({str(trial.params.get(key)) for trial in trials}) > 1]
    columns = [
        Column("rank", [str(place) for place in range(1, len(trials) + 1)]),
        Column("trial", [str(trial.number) for trial in trials]),
        Column("state", [state_text(trial.state) for trial in trials], right=False),
        Column(
            metric_title(metric),
            _best_first_bold([score(trial.best_metrics.get(metric)) for trial in trials]),
        ),
        Column("final", [score(trial.metrics.get(metric)) for trial in trials], expendable=3),
        *(Column(short_name(key), [setting(t.params.get(key)) for t in trials]) for key in common),
        *(
            Column(short_name(key), [setting(t.params.get(key)) for t in trials], expendable=4)
            for key in varied
        ),
        Column("steps", [str(trial.steps) for trial in trials], expendable=1),
        Column("time", [duration(trial.duration_s) for trial in trials], expendable=2),
    ]
    better = "lower" if mode == "min" else "higher"
    title = Text.assemble(("Leaderboard", "bold"), (f"  {metric}, {better} is better", "dim"))
    return Group(title, "", FittingTable(columns)) if trials else Group(title, "", "  no trials yet")


def metric_title(metric: str) -> str:
    """Return a metric's name as a column's head: `eval/loss`, but only the last part of a long one."""
    return metric if len(metric) <= 12 else metric.rpartition("/")[2]


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
    metric: str,
    *,
    adapter: Path | None,
    wandb_note: str | None,
    commands: Sequence[tuple[str, str]],
) -> RenderableType:
    """Return how the search ended, and what can be typed next.

    Args:
        best: the trial with the best objective; `None` if no trial has one.
        metric: the objective's key.
        adapter: the best adapter's folder.
        wandb_note: where W&B has the runs, or how to send them there.
        commands: what to type, and what it does.
    """
    facts = Table.grid(padding=(0, 0, 0, _GAP), pad_edge=True)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row(
        "best", best_text(best, metric) if best else Text(f"no trial has scored {metric}", "bold red")
    )
    for name, value in (("adapter", adapter), ("W&B", wandb_note)):
        if value is not None:
            facts.add_row(name, Text(str(value)))
    steps = Table.grid(padding=(0, 0, 0, _GAP), pad_edge=True)
    steps.add_column(overflow="fold")
    for command, purpose in commands:
        steps.add_row(Text(purpose, "dim"))
        steps.add_row(Text(f"  {command}", "cyan"))
    return Group(facts, "", Text("Next", "bold"), "", steps) if commands else facts


def best_text(trial: "TrialView", metric: str) -> Text:
    """Return `eval/loss 0.8412 by trial 3 at step 300: lr 1.2e-3 · r 16 · alpha 32`."""
    return best_line(
        metric, objective(trial.best_metrics, metric), trial.number, trial.best_metrics["step"], trial.params
    )


def best_line(metric: str, value: float | None, number: int, step: int, params: Mapping[str, Any]) -> Text:
    """Return the line `best_text` describes, from its parts."""
    return Text.assemble(
        f"{metric} ",
        (score(value), "bold green"),
        f" by trial {number} at step {step}",
        (f": {parameters(params)}" if params else ""),
    )


def status(status: "Status") -> RenderableType:
    """Return how far an experiment is."""
    ended = sum(count for state, count in status.counts.items() if state.is_end)
    word = "finished" if status.finished else "not finished"
    head = Text.assemble((status.name, "bold"), f"  {ended}/{status.num_trials} trials ended, {word}")
    lines = [counts_text(status.counts)] if status.counts else []
    if status.best:
        lines.append(Text("best ").append_text(best_text(status.best, status.metric)))
    return Group(head, Padding(Group(*lines), (0, 0, 0, _GAP))) if lines else head


def _best_first_bold(cells: Sequence[str]) -> list[Text]:
    return [Text(cell, "" if place or cell == ABSENT else "bold green") for place, cell in enumerate(cells)]


def _scientific(value: float) -> str:
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def plan(resumption: "Resumption") -> RenderableType:
    """Return what a resumed search is about to do, trial by trial where that is more than keeping it."""
    lines = []
    for key, (before, after) in resumption.changes.items():
        lines.append(f"{key}: {before} becomes {after}")
    for torn in resumption.plan.torn:
        lines.append(f"{torn.problem} It is removed.")
    kept = 0
    for step in resumption.plan.steps:
        if step.action is Action.KEEP:
            kept += 1
        else:
            lines.append(f"trial {step.trial.number}: {step.action}, {step.why}")
    lines.append(f"{kept} trials stay as they are, {resumption.plan.new_trials} are new")
    if resumption.plan.nothing_to_do:
        lines.append("Nothing is left to do. Extend the search with --trials +N.")
    return "\n".join(lines)
