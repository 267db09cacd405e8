"""Conditions over trials: what they keep, and that what they cannot mean is refused by name."""

from typing import Any

import pytest

from trainable.errors import ExperimentError
from tune.read.filtering import Filter

NAMES = ("state", "lora.r", "lora.alpha", "eval/loss", "best/eval/loss", "reason", "number", "data.note")
COLUMNS = {name: name for name in NAMES} | {"r": "lora.r", "alpha": "lora.alpha"}
ROW = {
    "state": "completed",
    "lora.r": 16,
    "lora.alpha": 32.0,
    "eval/loss": 0.9,
    "best/eval/loss": 0.8,
    "reason": None,
    "number": 3,
    "data.note": "a/b and c",
}


def holds(text: str, **changes: Any) -> bool:
    return Filter.parse(text, COLUMNS)(ROW | changes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lora.r >= 16 and state == completed", True),
        ("lora.r > 16", False),
        ("8 < r <= 16", True),
        ("not r == 16", False),
        ("state in (pruned, completed)", True),
        ("state not in [pruned, failed]", True),
        ("state != 'completed'", False),
        ("eval/loss < 0.95", True),
        ("best/eval/loss < eval/loss", True),
        ("alpha / r == 2", True),
        ("alpha/r == 2", True),
        ("lora.alpha/lora.r > 2", False),
        ("eval/loss - best/eval/loss > 0.05", True),
        ("max(lora.r, lora.alpha) == 32", True),
        ("reason == none", True),
        ("reason != none", False),
        ("reason == stopped", False),
        ("number < -1", False),
        ("data.note == 'a/b and c'", True),
        ("(r == 2 or r == 16) and number == 3", True),
        ("data.note > 3", False),
        ("10 / (lora.r - 16) > 0", False),
    ],
)
def test_conditions(text: str, expected: bool) -> None:
    assert holds(text) is expected


@pytest.mark.parametrize("text", ["lora.r < 16", "lora.r >= 16", "lora.r != 16", "2 * lora.r > 0"])
def test_an_absent_value_fits_no_comparison(text: str) -> None:
    assert not holds(text, **{"lora.r": None})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora.rr > 2", "no column 'lora.rr'. Did you mean 'lora.r'?"),
        ("eval/los < 1", "no column 'eval/los'. Did you mean 'eval/loss'?"),
        ("state == complted", "no state 'complted'. Did you mean 'completed'?"),
        ("state in [completed, prund]", "Did you mean 'pruned'?"),
        ("lora.r", "'lora.r' compares nothing"),
        ("lora.r >", "is not a condition"),
        ("lora.r = 3", "is not a condition"),
        ("lora.r is 3", "not a comparison"),
        ("reason < none", "== none or != none"),
        ("__import__('os').system('true') == 0", "is not allowed"),
        ("(lambda: 1)() == 1", "is not allowed"),
        ("[x for x in state] == 1", "is not allowed"),
        ("lora.r > " + "1" * 2000, "1000 characters"),
    ],
)
def test_what_is_not_a_condition_is_refused(text: str, message: str) -> None:
    with pytest.raises(ExperimentError) as refused:
        Filter.parse(text, COLUMNS)
    assert message in str(refused.value)
