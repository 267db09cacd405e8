"""Facts are read from sentences of many wordings; `sentences.jsonl` holds each with what it states."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from trainable.weather.extract import Unit, precipitation, temperatures, wind

SENTENCES = [
    json.loads(line)
    for line in Path(__file__).with_name("sentences.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda sentence: sentence["text"])
def test_facts(sentence: Mapping[str, Any]) -> None:
    text, expected = sentence["text"], sentence["expected"]
    if sentence["kind"] == "temperature":
        heat = temperatures(text, Unit.CELSIUS if sentence["unit"] == "celsius" else Unit.FAHRENHEIT)
        read = {"high": heat.high, "low": heat.low, "other": list(heat.other)}
        assert read == {name: _near(value) for name, value in expected.items()}
    elif sentence["kind"] == "wind":
        found = wind(text)
        phases = [[span.low, span.high] for span in found.phases]
        assert phases == [_near(phase) for phase in expected["phases"]]
        assert found.gust == _near(expected["gust"])
    else:
        claim = precipitation(text)
        assert (None if claim is None else claim.wet) == expected["wet"]
        if claim is not None and expected["kinds"] is not None:
            assert claim.kinds == set(expected["kinds"])
        if claim is not None and expected["chance"] is not None:
            assert claim.chance == _near(expected["chance"])


def _near(value: float | list[float] | None) -> Any:
    return value if value is None else pytest.approx(value, abs=0.06)
