"""Trials beside each other, and experiments beside each other: what differs, and what came of it."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from trainable.errors import ExperimentError
from trainable.records import TrialState
from tune.read.curve import Chart, Curve
from tune.read.format import ABSENT, duration, parameters, score, setting
from tune.read.tables import Column, FittingTable
from tune.store.reader import ExperimentData, TrialView

_MOST_CURVES = 6
_MOST_CHARS = 24
"""Of a setting: two experiments and the longest key fit 80 columns."""


def compare_trials(data: ExperimentData, trials: Sequence[TrialView]) -> RenderableType:
    """Return the trials' results, the parameters that differ, and their curves."""
    objective = data.objective
    keys = sorted({key for trial in trials for key in trial.params})
    metrics = sorted(
        {key for trial in trials for key in trial.best_metrics if "/" in key} - {objective.metric}
    )
    rows: list[tuple[str, list[str]]] = [
        ("state", [trial.state.value for trial in trials]),
        (objective.metric, [score(objective.value(trial.best_metrics)) for trial in trials]),
        ("at step", [str(trial.best_metrics.get("step", ABSENT)) for trial in trials]),
        ("steps", [str(trial.steps) for trial in trials]),
        ("time", [duration(trial.duration_s) for trial in trials]),
    ]
    differing = [
        (key, cells)
        for key in keys
        if len(set(cells := [setting(trial.params.get(key)) for trial in trials])) > 1
    ]
    same = [key for key in keys if key not in dict(differing)]
    scored = [(key, [score(trial.best_metrics.get(key)) for trial in trials]) for key in metrics]
    heads = [f"trial {trial.number}" for trial in trials]
    parts: list[RenderableType] = [Text(f"Trials of {data.store.name}", "bold"), _table(rows, heads), ""]
    parts += [Text("Parameters that differ", "bold"), _table(differing, heads) if differing else "  none", ""]
    if same:
        shared = parameters({key: trials[0].params.get(key) for key in same})
        parts += [Text(f"  the same in all: {shared}", "dim"), ""]
    if scored:
        parts += [Text("Metrics of the best record", "bold"), _table(scored, heads), ""]
    curves = []
    for trial in trials[:_MOST_CURVES]:
        try:
            curves.append(Curve(f"trial {trial.number}", trial.curve(objective.metric)))
        except ExperimentError:
            continue
    return Group(*parts, Chart(f"{objective.metric} over optimizer steps", curves))


def compare_experiments(one: ExperimentData, two: ExperimentData) -> RenderableType:
    """Return the results of two experiments, and the settings that differ between them."""
    heads = [one.store.name, two.store.name]
    both = (one, two)
    results = [_results(data) for data in both]
    rows = [(key, [result[key] for result in results]) for key in results[0]]
    settings = [_settings(data) for data in both]
    keys = sorted(settings[0].keys() | settings[1].keys())
    differing = [
        (key, [_short(setting.get(key)) for setting in settings])
        for key in keys
        if settings[0].get(key) != settings[1].get(key)
    ]
    parts: list[RenderableType] = [Text("Experiments", "bold"), _table(rows, heads), ""]
    if one.objective != two.objective:
        parts += [Text("  their objectives differ: the best values cannot be compared", "yellow"), ""]
    elif one.config.data.val != two.config.data.val:
        parts += [Text("  their validation rows differ: the best values cannot be compared", "yellow"), ""]
    return Group(
        *parts,
        Text("Settings that differ", "bold"),
        _table(differing, heads) if differing else "  none",
    )


def _results(data: ExperimentData) -> dict[str, str]:
    status = data.status()
    best = status.best
    trained = sum(trial.duration_s or 0.0 for trial in data.trials)
    return {
        "objective": f"{data.objective.metric} ({data.objective.mode})",
        "trials": f"{len(data.trials)} of {data.num_trials}",
        **{state.value: str(status.counts.get(state, 0)) for state in TrialState},
        "best": score(data.objective.value(best.best_metrics)) if best else ABSENT,
        "best trial": str(best.number) if best else ABSENT,
        "best setting": parameters(best.params) if best else ABSENT,
        "trial time": duration(trained),
    }


def _settings(data: ExperimentData) -> dict[str, Any]:
    dumped = data.config.model_dump(mode="json")
    flat = {f"{section}.{key}": value for section, keys in dumped.items() for key, value in keys.items()}
    return {key: value for key, value in flat.items() if key not in ("search.name", "search.results_dir")}


def _short(value: Any) -> str:
    text = setting(value)
    return text if len(text) <= _MOST_CHARS else f"{text[: _MOST_CHARS - 1]}…"


def _table(rows: Sequence[tuple[str, Sequence[str]]], heads: Sequence[str]) -> RenderableType:
    columns = [Column("", [key for key, _ in rows], right=False)]
    columns += [Column(head, [cells[place] for _, cells in rows]) for place, head in enumerate(heads)]
    return FittingTable(columns)
