"""Expressions compute from other axes and allow nothing but arithmetic."""

from typing import Any

import pytest

from search_spaces import Space
from search_spaces.expressions import Expression
from trainable.config import TrialConfig
from trainable.errors import SpaceError

VALUES = {"lora.r": 16, "training.batch_size": 4}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 * lora.r", 32),
        ("-lora.r + 20", 4),
        ("32 // training.batch_size - 1", 7),
        ("lora.r / training.batch_size ** 2", 1.0),
        ("max(lora.r, 8 * training.batch_size)", 32),
        ("sqrt(lora.r) + log2(lora.r)", 8.0),
        ("round(lora.r / 3)", 5),
    ],
)
def test_an_expression_has_its_value(text: str, value: float) -> None:
    assert Expression.parse(text)(VALUES) == value


def test_the_keys_are_named_once_in_order() -> None:
    text = "training.batch_size * lora.r + lora.r"
    assert Expression.parse(text).keys == ("training.batch_size", "lora.r")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "lora.r if lora.r else 1",
        "lora.r[0]",
        "open(lora.r)",
        "lora.r and 1",
        "'a' * lora.r",
        "True + lora.r",
        "[lora.r for x in y]",
        "lora.r @ lora.r",
        "min(*lora.r)",
        "2 *",
        "",
    ],
)
def test_what_is_not_arithmetic_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Allowed are numbers, keys"):
        Expression.parse(text)


@pytest.mark.parametrize("text", ["3 + 4", "1" + "+ 1" * 300])
def test_an_expression_names_a_key_and_is_short(text: str) -> None:
    with pytest.raises(ValueError, match=r"names no key|characters"):
        Expression.parse(text)


@pytest.mark.parametrize("text", ["1 / (lora.r - 16)", "(10.0 * lora.r) ** 999", "sqrt(0 - lora.r)"])
def test_what_has_no_finite_value_is_refused_with_the_values(text: str) -> None:
    with pytest.raises(SpaceError, match=r"lora\.r = 16"):
        Expression.parse(text)(VALUES)


def load(**axes: Any) -> Space:
    return Space.load({key.replace("__", "."): axis for key, axis in axes.items()}, TrialConfig())


RANK = {"type": "choice", "values": [4, 8, 16]}


def test_a_string_is_a_derived_axis() -> None:
    points = load(lora__alpha="2 * lora.r", lora__r=RANK).combinations()
    assert [point.params for point in points] == [{"lora.r": r, "lora.alpha": 2 * r} for r in (4, 8, 16)]


def test_an_axis_with_a_condition_is_left_out_where_it_does_not_hold() -> None:
    dropout = {"type": "choice", "values": [0.1, 0.2], "when": {"lora.r": [8, 16]}}
    points = [point.params for point in load(lora__r=RANK, lora__dropout=dropout).combinations()]
    assert {"lora.r": 4} in points
    assert len(points) == 5


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"lora__r": RANK, "lora__dropout": {**RANK, "when": {"lora.r": 5}}}, "never holds|not allowed"),
        ({"lora__r": RANK, "lora__alpha": "2 * lora.rank"}, "not an axis of the space"),
        ({"lora__r": "lora.alpha * 2", "lora__alpha": "lora.r * 2"}, "circle"),
        ({"lora__r": RANK, "lora__alpha": "lora.r - 4"}, "not allowed"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(axes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        load(**axes)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({}, "is empty"),
        ({"lora.r": 5}, "is not on its axis"),
        ({"lora.alpha": 8}, "depends on 'lora.r'"),
        ({"lora.r": 4, "lora.alpha": 9}, "is 8 by its axis and cannot be 9"),
        ({"lora.dropout": 0.1}, "not an axis"),
    ],
)
def test_a_known_point_that_is_not_in_the_space_is_refused(point: dict[str, Any], message: str) -> None:
    space = load(lora__r=RANK, lora__alpha="2 * lora.r")
    with pytest.raises(SpaceError, match=message):
        space.known_point(point, "search.enqueue[0]")


def test_a_known_point_may_use_short_keys_and_name_what_follows() -> None:
    space = load(lora__r=RANK, lora__alpha="2 * lora.r")
    assert space.known_point({"lora.r": 4, "lora.alpha": 8}, "x") == {"lora.r": 4, "lora.alpha": 8}
