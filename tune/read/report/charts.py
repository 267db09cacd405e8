"""The report's charts as SVG that needs no script: it scales, follows the page's colors, and names itself.

Colors are CSS variables of the page, so that one drawing serves light and dark. Each point has a `<title>`,
which browsers show as a tooltip and screen readers read.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from markupsafe import Markup, escape

from tune.read.format import compact, duration, score, setting, short_name

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 28, 40
_MOST_CURVES = 120
_MOST_LINES = 200
_LABEL = 0.12
"""The part of an axis that a label takes."""

Trial = Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """A scale from values to places on the drawing.

    Attributes:
        title: what the values are.
        low: the lowest.
        high: the highest.
        log: whether it is logarithmic.
        whole: whether labels are integers.
        few: the values themselves, of a logarithmic axis on which each can have a label.
    """

    title: str
    low: float
    high: float
    log: bool = False
    whole: bool = False
    few: tuple[float, ...] = ()

    @classmethod
    def of(cls, title: str, values: Sequence[float], *, log: bool = False, whole: bool = False) -> "Axis":
        """Return an axis that holds all values."""
        low, high = min(values), max(values)
        if low == high:
            low, high = (low / 2, high * 2) if log and low > 0 else (low - 0.5, high + 0.5)
        axis = cls(title, low, high, log and low > 0, whole)
        different = sorted(set(values))
        places = [axis.place(value) for value in different]
        is_few = len(different) > 1 and min(b - a for a, b in pairwise(places)) >= _LABEL
        return replace(axis, few=tuple(different)) if is_few else axis

    def place(self, value: float) -> float:
        """Return where a value lies, from 0 to 1."""
        low, high, at = (
            (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return (at - low) / (high - low)

    def ticks(self) -> list[float]:
        """Return a few values for labels."""
        if self.log and self.few:
            return list(self.few)
        if self.log:
            low, high = math.log10(self.low), math.log10(self.high)
            whole = [10.0**power for power in range(math.ceil(low), math.floor(high) + 1)]
            if len(whole) >= 2:
                return whole
            return [10 ** (low + (high - low) * place / 3) for place in range(4)]
        even = [self.low + (self.high - self.low) * place / 4 for place in range(5)]
        return sorted({float(round(value)) for value in even}) if self.whole else even


def history(trials: Sequence[Trial], metric: str, mode: str) -> Markup:
    """Return the objective of each trial in the order of trying, and the best so far."""
    scored = sorted((t for t in trials if t["value"] is not None), key=lambda t: t["number"])
    if not scored:
        return _empty("no trial has a score yet")
    x = Axis.of("trial", [float(t["number"]) for t in scored], whole=True)
    y = Axis.of(metric, _without_outliers([t["value"] for t in scored], mode))
    better: Callable[..., float] = min if mode == "min" else max
    best, steps = scored[0]["value"], []
    for trial in scored:
        best = better(best, trial["value"])
        steps.append((trial["number"], best))
    parts = [_path(((_x(x, a), _y(y, b)) for a, b in _stairs(steps)), "line best")]
    parts += [
        _dot(
            _x(x, t["number"]),
            _y(y, t["value"]),
            t["state"],
            f"trial {t['number']}: {score(t['value'])}, {t['state']}",
        )
        for t in scored
    ]
    label = f"{metric} of {len(scored)} trials in the order they were tried; best {score(best)}"
    return _figure(label, _frame(x, y), parts)


def curves(trials: Sequence[Trial], metric: str, mode: str, rungs: Sequence[int]) -> Markup:
    """Return the learning curves, the best trials on top, and the steps at which the scheduler compares."""
    drawn = [t for t in trials if sum(v is not None for _, v in t["curve"])][:_MOST_CURVES]
    if not drawn:
        return _empty("no trial has reported a score yet")
    points = [(s, v) for t in drawn for s, v in t["curve"] if v is not None]
    x = Axis.of("optimizer steps", [float(s) for s, _ in points], whole=True)
    y = Axis.of(metric, _without_outliers([v for _, v in points], mode))
    parts = [
        f'<line class="rung" x1="{_x(x, r):.1f}" x2="{_x(x, r):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}">'
        f"<title>rung at step {r}</title></line>"
        for r in rungs
        if x.low <= r <= x.high
    ]
    for place, trial in reversed(list(enumerate(drawn))):
        line = [(_x(x, s), _y(y, v)) for s, v in trial["curve"] if v is not None]
        kind = "line best" if place == 0 else f"line s-{trial['state']} faint"
        title = f"trial {trial['number']}: {score(trial['value'])}, {trial['state']}"
        parts.append(_path(line, kind, title) if len(line) > 1 else _dot(*line[0], trial["state"], title))
    left = len(trials) - len(drawn)
    label = f"{metric} over steps of {len(drawn)} trials" + (f"; {left} others are left out" if left else "")
    return _figure(label, _frame(x, y), parts)


def bars(shares: Mapping[str, float], label: str) -> Markup:
    """Return horizontal bars of shares that add up to 1."""
    height, parts = 30 * len(shares) + 10, []
    for place, (name, share) in enumerate(shares.items()):
        top = 5 + 30 * place
        parts.append(
            f'<text x="195" y="{top + 18}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="bar" x="205" y="{top + 4}" width="{max(share, 0.002) * 370:.1f}" height="20"/>'
            f'<text x="{212 + share * 370:.1f}" y="{top + 18}">{share:.0%}</text>'
        )
    return _svg(label, parts, height)


def parallel(trials: Sequence[Trial], metric: str, mode: str) -> Markup:
    """Return one line per trial through its parameters and its score."""
    drawn = [t for t in trials if t["value"] is not None][:_MOST_LINES]
    keys = [k for k in dict.fromkeys(k for t in drawn for k in t["params"]) if _varies(drawn, k)]
    if len(drawn) < 2 or not keys:
        return _empty("fewer than two scored trials, or no parameter that varies")
    axes = [_parameter_axis(drawn, key) for key in keys]
    values = Axis.of(metric, _without_outliers([t["value"] for t in drawn], mode))
    gap = (_WIDTH - 120) / len(keys)
    xs = [60 + gap * place for place in range(len(keys) + 1)]
    order = {t["number"]: place / max(len(drawn) - 1, 1) for place, t in enumerate(drawn)}
    parts = []
    for trial in reversed(drawn):
        ys = [place(trial["params"].get(key)) for key, (place, _) in zip(keys, axes, strict=True)]
        ys.append(min(max(values.place(trial["value"]), 0), 1))
        line = [(x, _TOP + 10 + (1 - y) * 220) for x, y in zip(xs, ys, strict=True) if y is not None]
        share = round(100 * (1 - order[trial["number"]]))
        title = f"trial {trial['number']}: {score(trial['value'])}"
        parts.append(_path(line, "line ramp", title, f"--share:{share}%;opacity:{0.25 + 0.006 * share:.2f}"))
    ends = [ends for _, ends in axes] + [(score(values.low), score(values.high))]
    for x, name, (low, high) in zip(xs, [*map(short_name, keys), metric], ends, strict=True):
        parts.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP + 10}" y2="{_TOP + 230}"/>'
            f'<text x="{x:.1f}" y="{_TOP + 4}" text-anchor="middle">{escape(high)}</text>'
            f'<text x="{x:.1f}" y="{_TOP + 246}" text-anchor="middle">{escape(low)}</text>'
            f'<text class="title" x="{x:.1f}" y="{_TOP + 266}" text-anchor="middle">{escape(name)}</text>'
        )
    return _svg(f"parameters and {metric} of {len(drawn)} trials, one line each", parts, 300)


def plane(
    trials: Sequence[Trial],
    metric: str,
    across: tuple[str, Callable[[Trial], float | None]],
    up: tuple[str, Callable[[Trial], float | None]],
) -> Markup:
    """Return trials over two parameters, better ones stronger, over a coarse map of the best of each cell.

    Args:
        trials: best first.
        metric: names the color.
        across: title and value of the horizontal axis.
        up: title and value of the vertical axis.
    """
    placed = [(a, b, t) for t in trials if t["value"] is not None and (a := across[1](t)) and (b := up[1](t))]
    if len(placed) < 3 or min(a for a, _, _ in placed) <= 0 or min(b for _, b, _ in placed) <= 0:
        return Markup("")
    x = Axis.of(across[0], [a for a, _, _ in placed], log=True)
    y = Axis.of(up[0], [b for _, b, _ in placed], log=True)
    cells: dict[tuple[int, int], float] = {}
    columns, rows = 8, 6
    for place, (a, b, _) in enumerate(placed):
        cell = min(int(x.place(a) * columns), columns - 1), min(int(y.place(b) * rows), rows - 1)
        cells.setdefault(cell, 1 - place / max(len(placed) - 1, 1))
    wide, high = (_WIDTH - _LEFT - _RIGHT) / columns, (_HEIGHT - _TOP - _BOTTOM) / rows
    parts = [
        f'<rect class="cell" style="--share:{share:.0%}" x="{_LEFT + c * wide:.1f}" '
        f'y="{_HEIGHT - _BOTTOM - (r + 1) * high:.1f}" width="{wide:.1f}" height="{high:.1f}"/>'
        for (c, r), share in cells.items()
    ]
    for a, b, t in reversed(placed):
        where = f"{x.title} {setting(a)}, {y.title} {setting(b)}"
        title = f"trial {t['number']}: {metric} {score(t['value'])}, {where}"
        parts.append(_dot(_x(x, a), _y(y, b), "best" if t is placed[0][2] else t["state"], title))
    label = f"{metric} over {x.title} and {y.title}; cells are stronger where their best trial is better"
    return _figure(label, _frame(x, y), parts)


def front(trials: Sequence[Trial], metric: str, other: str, members: Sequence[int]) -> Markup:
    """Return trials over two objectives; those on the Pareto front stand out.

    Args:
        trials: the trials.
        metric: the first objective.
        other: the second.
        members: numbers of the trials on the front.
    """
    placed = [
        (t["value"], t["others"][other], t)
        for t in trials
        if t["value"] is not None and t["others"].get(other) is not None
    ]
    if not placed:
        return _empty("no trial has a score in both objectives yet")
    x = Axis.of(metric, [a for a, _, _ in placed])
    y = Axis.of(other, [b for _, b, _ in placed])
    parts = [
        _dot(
            _x(x, a),
            _y(y, b),
            "best" if t["number"] in members else t["state"],
            f"trial {t['number']}: {metric} {score(a)}, {other} {score(b)}"
            + (", on the Pareto front" if t["number"] in members else ""),
        )
        for a, b, t in sorted(placed, key=lambda one: one[2]["number"] in members)
    ]
    label = f"{metric} and {other} of {len(placed)} trials; {len(members)} on the Pareto front"
    return _figure(label, _frame(x, y), parts)


def timeline(trials: Sequence[Trial]) -> Markup:
    """Return who trained when, in as many lanes as trials trained at once."""
    ran = [t for t in trials if t["started"] is not None and t["ended"] is not None]
    if not ran:
        return _empty("no trial has run yet")
    ran.sort(key=lambda t: t["started"])
    begin, end = ran[0]["started"], max(t["ended"] for t in ran)
    span, parts = max(end - begin, 1e-9), []
    # When each lane is free again.
    lanes: list[float] = []
    for trial in ran:
        lane = next((n for n, free in enumerate(lanes) if free <= trial["started"] + 1e-6), len(lanes))
        lanes[lane : lane + 1] = [trial["ended"]]
        x = _LEFT + (trial["started"] - begin) / span * (_WIDTH - _LEFT - _RIGHT)
        width = max((trial["ended"] - trial["started"]) / span * (_WIDTH - _LEFT - _RIGHT), 1)
        fused = f", {trial['fused_width']:.1f} per fused step" if trial["fused_width"] else ""
        took = duration(trial["ended"] - trial["started"])
        where = trial["device"] or "an unknown device"
        title = f"trial {trial['number']}: {trial['state']}, {took} on {where}{fused}"
        parts.append(
            f'<rect class="s-{trial["state"]}" x="{x:.1f}" y="{8 + 16 * lane}" width="{width:.1f}" '
            f'height="12"><title>{escape(title)}</title></rect>'
        )
    height = 16 * len(lanes) + 34
    parts += [
        f'<text x="{_LEFT - 8}" y="{18 + 16 * n}" text-anchor="end">{n + 1}</text>'
        for n in range(0, len(lanes), max(len(lanes) // 8, 1))
    ]
    parts.append(f'<text x="{_LEFT}" y="{height - 8}">0s</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{height - 8}" text-anchor="end">{duration(span)}</text>')
    return _svg(f"{len(ran)} trials over time, at most {len(lanes)} at once", parts, height)


def _parameter_axis(
    trials: Sequence[Trial], key: str
) -> tuple[Callable[[Any], float | None], tuple[str, str]]:
    """Return what places a parameter's value from 0 to 1, and the labels of both ends."""
    values = [t["params"][key] for t in trials if t["params"].get(key) is not None]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        positive = min(values) > 0 and max(values) / min(values) >= 8
        axis = Axis.of(key, [float(v) for v in values], log=positive)
        return (lambda v: None if v is None else axis.place(float(v))), (
            setting(axis.low),
            setting(axis.high),
        )
    names = sorted({str(v) for v in values})
    places = {name: n / max(len(names) - 1, 1) for n, name in enumerate(names)}
    return (lambda v: None if v is None else places[str(v)]), (_cut(names[0]), _cut(names[-1]))


def _cut(text: str) -> str:
    return text if len(text) <= 12 else f"{text[:11]}…"


def _varies(trials: Sequence[Trial], key: str) -> bool:
    return len({str(t["params"].get(key)) for t in trials}) > 1


def _without_outliers(values: Sequence[float], mode: str) -> list[float]:
    """Return the values without the worst ones, which would press all others into one line."""
    ordered = sorted(values, reverse=mode == "max")
    middle = ordered[: max(len(ordered) * 9 // 10, 2)]
    limit = middle[-1] + 0.5 * (middle[-1] - middle[0])
    return [value for value in ordered if (value <= limit if mode == "min" else value >= limit)] or ordered


def _stairs(points: Sequence[tuple[float, float]]) -> Iterable[tuple[float, float]]:
    for place, (x, y) in enumerate(points):
        if place:
            yield x, points[place - 1][1]
        yield x, y


def _x(axis: Axis, value: float) -> float:
    return _LEFT + axis.place(value) * (_WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    # What lies beyond the axis is drawn at its end.
    return _HEIGHT - _BOTTOM - min(max(axis.place(value), 0.0), 1.0) * (_HEIGHT - _TOP - _BOTTOM)


def _path(points: Iterable[tuple[float, float]], kind: str, title: str = "", style: str = "") -> str:
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    named = f"<title>{escape(title)}</title>" if title else ""
    styled = f' style="{style}"' if style else ""
    return f'<polyline class="{kind}"{styled} points="{line}">{named}</polyline>'


def _dot(x: float, y: float, kind: str, title: str) -> str:
    named = f"<title>{escape(title)}</title>"
    return f'<circle class="s-{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">{named}</circle>'


def _frame(x: Axis, y: Axis) -> list[str]:
    bottom, parts = _HEIGHT - _BOTTOM, []
    for value in y.ticks():
        at = _y(y, value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_tick(value, y.log)}</text>'
        )
    for value in x.ticks():
        label = _tick(value, x.log)
        anchor = "end" if x.place(value) > 1 - _LABEL / 2 else "middle"
        parts.append(f'<text x="{_x(x, value):.1f}" y="{bottom + 20}" text-anchor="{anchor}">{label}</text>')
    parts.append(f'<text class="title" x="4" y="14">{escape(y.title)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="title" x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x.title)}</text>'
    )
    return parts


def _tick(value: float, log: bool) -> str:
    return setting(float(value)) if log or abs(value) < 10 else compact(value)


def _figure(label: str, frame: Sequence[str], parts: Sequence[str]) -> Markup:
    return _svg(label, [*frame, *parts], _HEIGHT)


def _svg(label: str, parts: Sequence[str], height: float) -> Markup:
    return Markup(
        f'<figure><svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg><figcaption>{escape(label)}</figcaption></figure>"
    )


def _empty(why: str) -> Markup:
    return Markup(f"<p class='none'>Nothing to draw: {escape(why)}.</p>")
