"""Arithmetic over configuration keys, such as `2 * lora.r`: parsed once, evaluated without `eval`."""

import ast
import functools
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trainable.errors import SpaceError

_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    # In floats: a whole number to the power of another can take forever.
    ast.Pow: math.pow,
}
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "round": round,
    "sqrt": math.sqrt,
    "log2": math.log2,
}
"""What an expression can call."""

_ALLOWED = f"Allowed are numbers, keys, + - * / // **, and {', '.join(FUNCTIONS)}"
_MAX_LENGTH = 500


@dataclass(frozen=True)
class Expression:
    """An expression that has been checked.

    Attributes:
        text: as it was written.
        keys: the configuration keys in it, in the order in which they appear.
    """

    text: str
    keys: tuple[str, ...]

    @staticmethod
    @functools.cache
    def parse(text: str) -> "Expression":
        """Read an expression.

        Raises:
            ValueError: it is not arithmetic over keys; the message says what is allowed.
        """
        if len(text) > _MAX_LENGTH:
            raise ValueError(f"an expression may have {_MAX_LENGTH} characters, not {len(text)}")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ValueError(f"{text!r} is not an expression. {_ALLOWED}") from None
        keys = tuple(dict.fromkeys(_keys(tree, text)))
        if not keys:
            raise ValueError(f"{text!r} names no key; write a constant axis, or use a key such as lora.r")
        return Expression(text, keys)

    def __call__(self, values: Mapping[str, Any]) -> float:
        """Return the value.

        Args:
            values: a number for each key.

        Raises:
            SpaceError: the value is not a finite number.
        """
        try:
            value = _value(ast.parse(self.text.strip(), mode="eval").body, values)
        except (ArithmeticError, ValueError, TypeError) as error:
            raise SpaceError(f"'{self.text}' cannot be computed for {self._at(values)}: {error}.") from None
        if isinstance(value, complex) or not math.isfinite(value):
            raise SpaceError(f"'{self.text}' is {value} for {self._at(values)}; it must be a finite number.")
        return value

    def _at(self, values: Mapping[str, Any]) -> str:
        return ", ".join(f"{key} = {values[key]}" for key in self.keys)


def _keys(node: ast.AST, text: str) -> list[str]:
    """Return the keys under a node, refusing everything that is not arithmetic."""
    match node:
        case ast.Name() | ast.Attribute() if (key := _dotted(node)) is not None:
            return [key]
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return []
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return [*_keys(left, text), *_keys(right, text)]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _keys(operand, text)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS and args:
            return [key for argument in args for key in _keys(argument, text)]
        case _:
            raise ValueError(f"{ast.unparse(node)!r} in {text!r} is not allowed. {_ALLOWED}")


def _value(node: ast.AST, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left, values), _value(right, values))
        case ast.UnaryOp(operand=operand):
            return -_value(operand, values)
        case ast.Call(func=ast.Name(id=name), args=args):
            return FUNCTIONS[name](*(_value(argument, values) for argument in args))
        case _:
            return values[str(_dotted(node))]


def _dotted(node: ast.AST) -> str | None:
    """Return `section.key` of a chain of attributes; `None` for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None
