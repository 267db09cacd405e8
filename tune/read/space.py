"""A search space as a person reads it: its axes, its size, and points of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from search_spaces import Space
from search_spaces.axes import Axis, Choice, Constant, Derived, LogUniform, PowerOfTwo, Ratio
from search_spaces.space import condition
from tune.read.format import ABSENT, setting, short_name
from tune.read.tables import Column, FittingTable


def axes(space: Space) -> RenderableType:
    """Return the axes with what each may be, and how many points there are."""
    keys, found = list(space.axes), list(space.axes.values())
    columns = [
        Column("key", keys, right=False),
        Column("values", [values(axis) for axis in found], right=False),
        Column(
            "first", [ABSENT if axis.first is None else setting(axis.first) for axis in found], expendable=1
        ),
    ]
    if space.is_conditional:
        columns.append(
            Column("only when", [condition(axis) or ABSENT for axis in found], right=False, expendable=2)
        )
    return Group(FittingTable(columns), "", Padding(size(space), (0, 0, 0, 2)))


def values(axis: Axis) -> str:
    """Return what an axis may be, in a few words."""
    match axis:
        case Constant(value=value):
            return f"always {setting(value)}"
        case Derived():
            return f"= {axis.formula}"
        case Choice(values=choices):
            return ", ".join(map(setting, choices))
    low, high = (setting(getattr(axis, end)) for end in ("low", "high"))
    step = getattr(axis, "step", None)
    match axis:
        case PowerOfTwo():
            return f"{low} to {high}, powers of two"
        case Ratio(of=other, powers_of_two=powers):
            return f"{low} to {high} times {other}" + (", powers of two" if powers else "")
        case LogUniform():
            return f"{low} to {high}, logarithmic"
        case _:
            return f"{low} to {high}" + (f", in steps of {setting(step)}" if step not in (None, 1) else "")


def size(space: Space) -> str:
    """Return how many points a space has, in words."""
    count = space.size()
    searched = len(space.distributions)
    many = "infinitely many points" if count is None else f"{count:,} points"
    if count is not None and space.is_conditional:
        many = f"at most {many}"
    return f"{searched} of {len(space.axes)} axes are searched, {many}"


def points(params: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return points as a table, one a row."""
    keys = list(dict.fromkeys(key for one in params for key in one))
    return FittingTable([Column(short_name(key), [setting(one.get(key)) for one in params]) for key in keys])


def reasons(text: str) -> RenderableType:
    """Return the comments at the beginning of a space file."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return Text("\n".join(lines), "dim")
