"""Writes a gathered report as a self-contained HTML page, as Markdown, or as JSON."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tune.read import format
from tune.read.report import charts

_HERE = Path(__file__).parent
_BOARD = 20
"""Trials in the leaderboard of a Markdown report."""


def as_json(report: Mapping[str, Any]) -> str:
    """Return everything that was gathered."""
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def as_markdown(report: Mapping[str, Any]) -> str:
    """Return the report's words and tables."""
    return (
        _environment(autoescape=False)
        .get_template("report.md.j2")
        .render(report=report, keys=_keys(report), board=report["trials"][:_BOARD])
    )


def as_html(report: Mapping[str, Any]) -> str:
    """Return one page that needs no network: style, script and drawings are in it."""
    trials, objective = report["trials"], report["objective"]
    metric, mode = objective["metric"], objective["mode"]
    rate, rank = _value("training.learning_rate"), _value("lora.r")
    drawings = {
        "history": charts.history(trials, metric, mode),
        "curves": charts.curves(trials, metric, mode, report["rungs"]),
        "importance": charts.bars(report["learnt"]["importance"], "share of each parameter, by PED-ANOVA"),
        "parallel": charts.parallel(trials, metric, mode),
        "rank": charts.plane(trials, metric, ("learning rate", rate), ("rank", rank)),
        "alpha": charts.plane(trials, metric, ("learning rate", rate), ("alpha / rank", _scale)),
        "timeline": charts.timeline(trials),
        "fronts": [
            charts.front(trials, metric, other["metric"], report["front"])
            for other in report["other_objectives"]
        ],
    }
    return (
        _environment(autoescape=True)
        .get_template("page.html.j2")
        .render(
            report=report,
            keys=_keys(report),
            drawings=drawings,
            states=sorted({trial["state"] for trial in trials}),
            style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
            script=Markup((_HERE / "page.js").read_text(encoding="utf-8")),
        )
    )


WRITERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "html": as_html,
    "md": as_markdown,
    "json": as_json,
}
"""The formats by name; the name is also the file's suffix."""


def _environment(*, autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "score": format.score,
        "setting": format.setting,
        "duration": format.duration,
        "compact": format.compact,
        "short": format.short_name,
    }
    return environment


def _keys(report: Mapping[str, Any]) -> list[str]:
    """Return the parameters that differ between trials."""
    trials = report["trials"]
    keys = dict.fromkeys(key for trial in trials for key in trial["params"])
    return [key for key in keys if len({str(trial["params"].get(key)) for trial in trials}) > 1] or list(keys)


def _value(key: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda trial: trial["params"].get(key)


def _scale(trial: Mapping[str, Any]) -> float | None:
    alpha, rank = trial["params"].get("lora.alpha"), trial["params"].get("lora.r")
    return alpha / rank if alpha and rank else None
