"""Conditions over a trial's columns, such as `lora.r >= 16 and state == completed`; nothing is `eval`ed.

A condition compares columns, numbers, words and arithmetic over columns, and joins comparisons by `and`,
`or` and `not`. A word that is not a column is a text where it stands on the right of a comparison; `none` is
an absent value. A comparison with an absent value is false, except `== none` and `!= none`.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from search_spaces.expressions import Expression
from trainable.errors import ExperimentError, SpaceError, nearest
from trainable.records import TrialState

_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda value, values: value in values,
    ast.NotIn: lambda value, values: value not in values,
}
_ORDERED = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_ALLOWED = (
    "Compare columns with < <= > >= == != or in, and join by and, or, not: "
    "lora.r >= 16 and state == completed"
)
_MAX_LENGTH = 1000
_SLASHED = re.compile(r"[A-Za-z_][\w.]*(?:/[A-Za-z_][\w.@-]*)+")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")

Evaluated = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Filter:
    """A condition that has been checked against the columns there are."""

    text: str
    _test: Evaluated

    @classmethod
    def parse(cls, text: str, columns: Mapping[str, str]) -> "Filter":
        """Read a condition.

        Args:
            text: as a person typed it.
            columns: every name that a column can be called by, and the column it stands for.

        Raises:
            ExperimentError: it is not a condition, or a column is unknown; the message says what is allowed.
        """
        if len(text) > _MAX_LENGTH:
            raise ExperimentError(f"--where may have {_MAX_LENGTH} characters, not {len(text)}.")
        reader = _Reader(text, columns)
        return cls(text, reader.condition(reader.tree()))

    def __call__(self, row: Mapping[str, Any]) -> bool:
        """Return whether the condition holds for a row."""
        return bool(self._test(row))


class _Reader:
    """Turns the syntax tree of one condition into functions of a row."""

    def __init__(self, text: str, columns: Mapping[str, str]) -> None:
        self._text = text
        self._columns = columns
        self._slashed: dict[str, str] = {}

    def tree(self) -> ast.expr:
        """Parse the text, in which a metric's name has slashes and is still one name."""
        # Quoted text is left alone; between quotes, each name with slashes becomes an identifier.
        parts, end = [], 0
        for quoted in _QUOTED.finditer(self._text):
            parts += [_SLASHED.sub(self._identifier, self._text[end : quoted.start()]), quoted.group()]
            end = quoted.end()
        parts.append(_SLASHED.sub(self._identifier, self._text[end:]))
        try:
            return ast.parse("".join(parts).strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self._refused(f"{self._text!r} is not a condition") from None

    def condition(self, node: ast.expr) -> Evaluated:
        """Return the function of a node that is true or false."""
        match node:
            case ast.BoolOp(op=op, values=values):
                tests = [self.condition(value) for value in values]
                every = all if isinstance(op, ast.And) else any
                return lambda row: every(test(row) for test in tests)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                test = self.condition(operand)
                return lambda row: not test(row)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                sides = [left, *comparators]
                links = [
                    self._comparison(one, op, two)
                    for one, op, two in zip(sides, ops, sides[1:], strict=False)
                ]
                return lambda row: all(link(row) for link in links)
            case _:
                raise self._refused(f"{self._shown(node)!r} compares nothing")

    def _comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Evaluated:
        if type(op) not in _COMPARISONS:
            raise self._refused("'is' is not a comparison here")
        compare = _COMPARISONS[type(op)]
        one = self._value(left, word_allowed=False)
        two = self._value(right, word_allowed=True)
        absent = self._is_none(right)
        if self._shown(left) == "state" and not absent:
            self._check_states(right)
        if absent and not isinstance(op, ast.Eq | ast.NotEq):
            raise self._refused("an absent value can only be compared with == none or != none")

        def test(row: Mapping[str, Any]) -> bool:
            a, b = one(row), two(row)
            if absent:
                return compare(a, None)
            if a is None or b is None:
                return False
            if isinstance(op, _ORDERED) and isinstance(a, str) != isinstance(b, str):
                return False
            try:
                return bool(compare(a, b))
            except TypeError:
                return False

        return test

    def _value(self, node: ast.expr, *, word_allowed: bool) -> Evaluated:
        match node:
            case ast.Constant(value=value) if value is None or isinstance(value, str | int | float):
                return lambda row: value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return lambda row: -number
            case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
                values = [self._value(part, word_allowed=word_allowed) for part in parts]
                return lambda row: [value(row) for value in values]
            case ast.Name() | ast.Attribute():
                return self._name(self._shown(node), word_allowed=word_allowed)
            case ast.BinOp() | ast.Call():
                return self._arithmetic(node)
            case _:
                raise self._refused(f"{self._shown(node)!r} is not allowed")

    def _name(self, name: str, *, word_allowed: bool) -> Evaluated:
        if name in self._columns:
            column = self._columns[name]
            return lambda row: row[column]
        if word_allowed and name.lower() == "none":
            return lambda row: None
        if word_allowed and "." not in name and "/" not in name:
            constant = {"true": True, "false": False}.get(name.lower(), name)
            return lambda row: constant
        raise unknown_column(name, self._columns)

    def _arithmetic(self, node: ast.expr) -> Evaluated:
        try:
            expression = Expression.parse(ast.unparse(node))
        except ValueError as error:
            raise self._refused(str(error)) from None
        values = {key: self._name(self._restored(key), word_allowed=False) for key in expression.keys}

        def value(row: Mapping[str, Any]) -> Any:
            numbers = {key: read(row) for key, read in values.items()}
            if any(number is None for number in numbers.values()):
                return None
            try:
                return expression(numbers)
            except SpaceError:
                return None

        return value

    def _identifier(self, match: re.Match[str]) -> str:
        """Return an identifier for a name with slashes, unless it is a division of columns."""
        name = match.group()
        if name not in self._columns and all(part in self._columns for part in name.split("/")):
            return name
        identifier = f"_slashed_{len(self._slashed)}"
        self._slashed[identifier] = name
        return identifier

    def _restored(self, name: str) -> str:
        return self._slashed.get(name, name)

    def _check_states(self, node: ast.expr) -> None:
        """Refuse a state that no trial can be in: it would silently match nothing."""
        states = [state.value for state in TrialState]
        for part in node.elts if isinstance(node, ast.List | ast.Tuple | ast.Set) else [node]:
            word = self._shown(part).strip("'\"")
            if word not in states and word not in self._columns:
                raise ExperimentError(
                    f"--where: there is no state '{word}'.{nearest(word, states)} "
                    f"States: {', '.join(states)}."
                )

    def _is_none(self, node: ast.expr) -> bool:
        return (isinstance(node, ast.Constant) and node.value is None) or (
            isinstance(node, ast.Name) and node.id.lower() == "none" and node.id not in self._columns
        )

    def _shown(self, node: ast.AST) -> str:
        text = ast.unparse(node)
        for identifier, name in self._slashed.items():
            text = re.sub(rf"\b{identifier}\b", name, text)
        return text

    def _refused(self, what: str) -> ExperimentError:
        return ExperimentError(f"--where: {what}. {_ALLOWED}.")


def unknown_column(name: str, columns: Iterable[str]) -> ExperimentError:
    """Return the error of a column that does not exist."""
    known = sorted(set(columns))
    return ExperimentError(f"there is no column '{name}'.{nearest(name, known)} Columns: {', '.join(known)}.")
