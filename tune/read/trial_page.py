"""One trial as a person reads it in the terminal."""

import time
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trainable.errors import CheckpointError, ExperimentError
from trainable.evaluation.predictions import Prediction
from trainable.places import Place, name_of
from trainable.records import ATTEMPT, DEVICE, EVAL_LOSS, TIME, TRAIN_LOSS, TRAIN_TOKENS_PER_SECOND
from tune.read import tables
from tune.read.curve import Chart, Curve
from tune.read.format import ABSENT, best_text, compact, duration, score, setting, state_text
from tune.read.tables import Column, FittingTable
from tune.store.reader import ExperimentData, TrialView

_PREDICTIONS = 3
_LOG_LINES = 12


def trial_page(data: ExperimentData, trial: TrialView, metric: str) -> RenderableType:
    """Return everything that is known of a trial.

    Raises:
        ExperimentError: the trial has reported, and not this metric.
    """
    parts: list[RenderableType] = [_head(data, trial), "", *_parameters(data, trial), ""]
    if trial.records:
        try:
            parts += [Chart(f"{metric} over optimizer steps", [Curve(metric, trial.curve(metric))]), ""]
        except ExperimentError:
            # A trial that ended before its first score has no curve of the objective.
            if metric != data.objective.metric:
                raise
            parts += [Text(f"  no record has {metric}", "dim"), ""]
    parts += [*_checkpoints(data, trial), *_log(trial, data.objective.metric)]
    if shown := newest_predictions(data, trial)[:_PREDICTIONS]:
        parts += ["", tables.predictions(shown)]
    return Group(*parts)


def newest_predictions(data: ExperimentData, trial: TrialView) -> list[Prediction]:
    """Return the texts of the trial's last evaluation that generated some; a corrupt file has none."""
    try:
        rows = data.store.trial(trial.trial_id).predictions()
    except ValueError:
        return []
    last = max((row.step or 0 for row in rows), default=0)
    return [row for row in rows if (row.step or 0) == last]


def _head(data: ExperimentData, trial: TrialView) -> RenderableType:
    head = Text.assemble((f"trial {trial.number}", "bold"), f" of {data.store.name}  ")
    head.append_text(state_text(trial.state))
    facts = Table.grid(padding=(0, 0, 0, 2), pad_edge=True)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    if trial.reason:
        facts.add_row("reason", Text(trial.reason))
    error = data.store.trial(trial.trial_id).last_error()
    if error and error not in (trial.reason or ""):
        facts.add_row("last error", Text(error))
    if trial.best_metrics:
        facts.add_row("best", best_text(trial, data.objective, with_params=False))
    full = next((record.max_steps for record in reversed(trial.records) if record.max_steps), None)
    facts.add_row("steps", f"{trial.steps} of {full}" if full else str(trial.steps))
    facts.add_row("time", duration(trial.duration_s))
    attempts = len({record.attempt for record in trial.records}) or 1
    follows = f"; another attempt at trial {trial.follows}" if trial.follows is not None else ""
    facts.add_row("attempts", f"{attempts}{follows}")
    facts.add_row("id", f"{trial.trial_id}, W&B run {trial.wandb_run_id or ABSENT}")
    return Group(head, facts)


def _parameters(data: ExperimentData, trial: TrialView) -> Iterator[RenderableType]:
    yield Text("Parameters", "bold")
    base = data.config.trial().model_dump(mode="json")
    keys = list(trial.params)
    fixed = [setting(base.get(key.split(".")[0], {}).get(key.split(".")[-1])) for key in keys]
    yield FittingTable(
        [
            Column("key", keys, right=False),
            Column("value", [setting(trial.params[key]) for key in keys]),
            Column("not searched", fixed, expendable=1),
        ]
    )


def _checkpoints(data: ExperimentData, trial: TrialView) -> Iterator[RenderableType]:
    places = data.store.trial(trial.trial_id).checkpoints()
    yield Text("Checkpoints", "bold")
    if not places:
        yield "  none"
        return
    described = [_described(data, place) for place in places]
    yield FittingTable(
        [
            Column("checkpoint", [name_of(place) for place in places], right=False),
            Column("step", [step for step, _ in described]),
            Column("state", [what for _, what in described], right=False),
        ]
    )


def _described(data: ExperimentData, place: Place) -> tuple[str, str]:
    """Return a checkpoint's step, and whether it is complete; files are not hashed."""
    try:
        return str(data.store.read_checkpoint(place, deep=False)["step"]), "complete"
    except (CheckpointError, ValueError, KeyError, OSError) as error:
        return ABSENT, str(error).partition(": ")[2] or "corrupt"


def _log(trial: TrialView, objective: str) -> Sequence[RenderableType]:
    records = trial.records[-_LOG_LINES:]
    if not records:
        return ["", Text("Log", "bold"), "  the trial has not reported yet"]
    metrics = list(dict.fromkeys([objective, EVAL_LOSS, TRAIN_LOSS]))
    times = [
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record[TIME])) if TIME in record else ABSENT
        for record in records
    ]
    columns = [
        Column("step", [str(record.step) for record in records]),
        Column("time", times, expendable=2),
        *(Column(key, [score(record.get(key)) for record in records]) for key in metrics),
        Column("tok/s", [compact(record.get(TRAIN_TOKENS_PER_SECOND)) for record in records], expendable=1),
        Column("device", [str(record.get(DEVICE, ABSENT)) for record in records], expendable=3),
        Column("attempt", [str(record.get(ATTEMPT, 1)) for record in records], expendable=4),
    ]
    left = len(trial.records) - len(records)
    title = "Log" if not left else f"Log, the last {len(records)} of {len(trial.records)} records"
    return ["", Text(title, "bold"), FittingTable(columns)]
