"""How numbers, parameters and states are written for people. Color only repeats what the words say."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.text import Text

from trainable.objective import Objective
from trainable.records import (
    EVAL_CEILING,
    EVAL_LOSS,
    EVAL_OVERALL,
    EVAL_ROWS,
    EVAL_TEXT_ROWS,
    TrialState,
)

if TYPE_CHECKING:
    from tune.store.reader import TrialView

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

SHORT_NAMES = {"training.learning_rate": "lr", "lora.r": "r", "lora.alpha": "alpha"}


def score(value: Any) -> str:
    """Write a metric: four decimals where it is near one, two digits and an exponent where it is tiny."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return ABSENT
    if isinstance(value, int):
        return f"{value:,}"
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


def byte_size(count: float) -> str:
    """Write a size in bytes: `870 B`, `12.3 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def counted(count: int, noun: str) -> str:
    """Write a count with its noun: `1 trial`, `3 trials`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def parameters(params: Mapping[str, Any]) -> str:
    """Write parameters in a line: `lr 1.2e-3 · r 16 · alpha 32`."""
    ordered = [key for key in SHORT_NAMES if key in params] + sorted(set(params) - set(SHORT_NAMES))
    return " · ".join(f"{short_name(key)} {setting(params[key])}" for key in ordered)


def short_name(key: str) -> str:
    """Return what a parameter is called in tables: `lr` for `training.learning_rate`."""
    return SHORT_NAMES.get(key, key.rpartition(".")[2])


def state_text(state: TrialState) -> Text:
    """Return the state's word in its colour."""
    return Text(state.value, STYLES[state])


def shown_state(state: TrialState, *, live: bool) -> TrialState:
    """Return a trial's state as a person is shown it.

    A search that was killed leaves its trials marked as running; they wait to be resumed.
    """
    return state if live or state.is_terminal else TrialState.PENDING


def counts_text(counts: Mapping[TrialState, int]) -> Text:
    """Return `2 running · 5 pruned`, each state in its colour; states without trials are left out."""
    parts = [
        Text(f"{counts[state]} {state.value}", STYLES[state]) for state in TrialState if counts.get(state)
    ]
    return Text(" · ").join(parts)


def better(objective: Objective) -> str:
    """Return `lower` or `higher`: which values of an objective are better."""
    return "lower" if objective.mode == "min" else "higher"


def metric_title(metric: str) -> str:
    """Return a metric's name as a column's head: `eval/loss`, but only the last part of a long one."""
    return metric if len(metric) <= 12 else metric.rpartition("/")[2]


def best_text(trial: "TrialView", objective: Objective, *, with_params: bool = True) -> Text:
    """Return `eval/loss 0.8412 by trial 3 at step 300: lr 1.2e-3 · r 16 · alpha 32`."""
    value = objective.value(trial.best_metrics)
    params = trial.params if with_params else {}
    return best_line(objective.metric, value, trial.number, trial.best_metrics["step"], params)


def best_line(metric: str, value: float | None, number: int, step: int, params: Mapping[str, Any]) -> Text:
    """Return the line `best_text` describes, from its parts."""
    return Text.assemble(
        f"{metric} ",
        (score(value), "bold green"),
        f" by trial {number} at step {step}",
        (f": {parameters(params)}" if params else ""),
    )


def scores_text(metrics: Mapping[str, float]) -> str:
    """Return `eval/loss 1.3120 on 120 rows, eval/overall_score 0.4710 of at most 0.9012 on 32 rows`."""
    parts = []
    if EVAL_LOSS in metrics:
        parts.append(f"{EVAL_LOSS} {score(metrics[EVAL_LOSS])} on {metrics[EVAL_ROWS]} rows")
    if EVAL_OVERALL in metrics:
        ceiling = score(metrics.get(EVAL_CEILING))
        parts.append(
            f"{EVAL_OVERALL} {score(metrics[EVAL_OVERALL])} of at most {ceiling} "
            f"on {metrics[EVAL_TEXT_ROWS]} rows"
        )
    return ", ".join(parts)


def _scientific(value: float) -> str:
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"
