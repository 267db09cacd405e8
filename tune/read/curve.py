"""Curves drawn with characters, for a terminal of any width."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from tune.read.format import compact, score

_STYLES = ("green", "cyan", "yellow", "magenta", "blue", "red")
_MARKS = "*o+x#@"
"""The marks of the curves where the terminal has no braille."""
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Unicode braille: the bit of each of a character's 4 x 2 dots."""
_MOST_WIDTH = 100


@dataclass(frozen=True)
class Curve:
    """A named line through (step, value) points; points that are not finite are left out."""

    name: str
    points: Sequence[tuple[int, float]]

    @property
    def finite(self) -> list[tuple[int, float]]:
        """The points that can be drawn."""
        return [point for point in self.points if math.isfinite(point[1])]


@dataclass(frozen=True)
class Chart:
    """Curves over a common axis of steps.

    Attributes:
        title: what the values are.
        curves: drawn over each other, the first on top.
        height: lines of the drawing.
    """

    title: str
    curves: Sequence[Curve]
    height: int = 10

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        drawn = [curve for curve in self.curves if curve.finite]
        if not drawn:
            yield Text(f"  {self.title}: no finite value to draw", "dim")
            return
        values = [value for curve in drawn for _, value in curve.finite]
        steps = [step for curve in drawn for step, _ in curve.finite]
        low, high, first, last = min(values), max(values), min(steps), max(steps)
        labels = {0: score(high), self.height // 2: score((low + high) / 2), self.height - 1: score(low)}
        margin = max(map(len, labels.values())) + 2
        width = max(min(options.max_width, _MOST_WIDTH) - margin - 2, 10)
        # Without colors, marks tell one curve from another; braille dots look all the same.
        colored = console.color_system is not None and not console.no_color
        braille = "utf" in options.encoding.lower() and (colored or len(drawn) == 1)
        canvas = _Canvas(width, self.height, braille=braille)
        for place, curve in reversed(list(enumerate(drawn))):
            points = [
                (_share(step, first, last), 1 - _share(value, low, high)) for step, value in curve.finite
            ]
            canvas.draw(points, place)
        yield Text(f"  {self.title}", "dim")
        for row in range(self.height):
            yield Text.assemble((f"{labels.get(row, ''):>{margin}} ", "dim"), canvas.line(row))
        ends = f"{compact(first)}{compact(last):>{max(width - len(compact(first)), 1)}}"
        yield Text(f"{'':>{margin}} {ends}", "dim")
        if len(drawn) > 1:
            legend = [Text(canvas.mark(n) + curve.name, canvas.style(n)) for n, curve in enumerate(drawn)]
            yield Text("  ").append_text(Text("   ").join(legend))


class _Canvas:
    """Dots in character cells, each cell in the color of the last curve through it."""

    def __init__(self, width: int, height: int, *, braille: bool) -> None:
        self._width, self._height, self._braille = width, height, braille
        self._across, self._down = (2, 4) if braille else (1, 1)
        self._bits: dict[tuple[int, int], int] = {}
        self._owner: dict[tuple[int, int], int] = {}

    def draw(self, points: Sequence[tuple[float, float]], curve: int) -> None:
        """Draw straight lines between points, whose coordinates are shares of width and height."""
        across, down = self._width * self._across - 1, self._height * self._down - 1
        dots = [(round(x * across), round(y * down)) for x, y in points]
        for (x0, y0), (x1, y1) in zip(dots, dots[1:] or dots, strict=False):
            count = max(abs(x1 - x0), abs(y1 - y0), 1)
            for place in range(count + 1):
                self._dot(round(x0 + (x1 - x0) * place / count), round(y0 + (y1 - y0) * place / count), curve)

    def line(self, row: int) -> Text:
        """Return one line of the drawing."""
        text = Text()
        for column in range(self._width):
            bits = self._bits.get((column, row), 0)
            owner = self._owner.get((column, row), 0)
            character = (
                (chr(0x2800 + bits) if self._braille else _MARKS[owner % len(_MARKS)]) if bits else " "
            )
            text.append(character, self.style(owner) if bits else "")
        text.rstrip()
        return text

    def style(self, curve: int) -> str:
        """Return a curve's color."""
        return _STYLES[curve % len(_STYLES)]

    def mark(self, curve: int) -> str:
        """Return what stands before a curve's name."""
        return "━ " if self._braille else f"{_MARKS[curve % len(_MARKS)]} "

    def _dot(self, x: int, y: int, curve: int) -> None:
        cell = x // self._across, y // self._down
        self._bits[cell] = self._bits.get(cell, 0) | _DOTS[y % self._down][x % self._across]
        self._owner[cell] = curve


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5
