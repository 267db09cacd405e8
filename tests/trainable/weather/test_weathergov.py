"""WeatherGov's records as rows."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from trainable.errors import DataError
from trainable.weather.weathergov import linearise, write_weathergov


def _measure(kind: str, low: int, mean: int, high: int) -> dict[str, Any]:
    return {"type": kind, "time": "6-21", "min": low, "mean": mean, "max": high}


def _grades(kind: str, *grades: str) -> list[dict[str, Any]]:
    key = "mode_bucket" if kind == "skyCover" else "mode"
    windows = ("6-21", "6-9", "6-13", "9-21", "13-21")
    return [{"type": kind, "time": time, key: grade} for time, grade in zip(windows, grades, strict=True)]


RECORDS = [
    _measure("temperature", 43, 48, 53),
    _measure("windChill", 0, 0, 0),
    _measure("windSpeed", 6, 13, 26),
    {"type": "windDir", "time": "6-21", "mode": "SSE"},
    _measure("gust", 0, 23, 53),
    *_grades("skyCover", "75-100", "75-100", "75-100", "75-100", "50-75"),
    _measure("precipPotential", 30, 90, 100),
    *_grades("thunderChance", "--", "--", "--", "--", "--"),
    *_grades("rainChance", "Def", "--", "Chc", "Def", "Def"),
    *_grades("freezingRainChance", "--", "Lkly", "Lkly", "--", "--"),
]
SCENARIO = {"id": "wg-1", "period": "day", "records": RECORDS, "text_natural": "Rain. High near 54. "}
INPUT = (
    "day\ntemperature 43 48 53\nwind SSE 6 13 26\ngust 0 23 53\nprecipitation 30 90 100\n"
    "sky 75-100 13-21:50-75\nrain Def 6-9:-- 6-13:Chc\nfreezing rain -- 6-9:Lkly 6-13:Lkly"
)


def _source(folder: Path, scenarios: dict[str, list[Any]], suffix: str = ".jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    for split, lines in scenarios.items():
        content = "\n".join(json.dumps(line) for line in lines).encode()
        (folder / f"{split}{suffix}").write_bytes(
            gzip.compress(content) if suffix.endswith("gz") else content
        )
    return folder


def test_informative_records_alone_are_told() -> None:
    assert linearise("day", RECORDS) == INPUT


def test_a_period_that_is_unknown_is_left_out() -> None:
    assert linearise(None, RECORDS) == INPUT.removeprefix("day\n")


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (_measure("gust", 0, 0, 0), ""),
        (_measure("gust", 0, 3, 20), "gust 0 3 20"),
        (_measure("windChill", -9, -4, 0), "wind chill -9 -4 0"),
        (_measure("temperature", 0, 0, 0), "temperature 0 0 0"),
        (_measure("precipPotential", 0, 0, 0), ""),
        (_measure("windSpeed", 1, 2, 3), "wind 1 2 3"),
    ],
)
def test_measures_of_nothing_are_left_out(record: dict[str, Any], line: str) -> None:
    assert linearise(None, [record]) == line


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_three_files_of_rows(tmp_path: Path, suffix: str) -> None:
    other = SCENARIO | {"id": "wg-2", "period": "night"}
    source = _source(tmp_path / "s", {"train": [SCENARIO, other], "val": [SCENARIO], "test": [other]}, suffix)
    paths = write_weathergov(source, tmp_path / "out" / "here")
    assert paths == [tmp_path / "out" / "here" / f"{split}.json" for split in ("train", "val", "test")]
    rows = json.loads(paths[0].read_text(encoding="utf-8"))
    assert rows[0] == {"input": INPUT, "target": "Rain. High near 54.", "id": "wg-1"}
    assert [row["id"] for row in rows] == ["wg-1", "wg-2"]


def test_a_missing_split_is_told(tmp_path: Path) -> None:
    source = _source(tmp_path / "s", {"train": [SCENARIO], "test": [SCENARIO]})
    with pytest.raises(DataError, match=r"s' has no val.jsonl or val.jsonl.gz. Name the folder"):
        write_weathergov(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ([1], "row 2 is not an object. A WeatherGov scenario has `records`"),
        ({"records": RECORDS}, "'text_natural' is None, not the text of a forecast"),
        (SCENARIO | {"text_natural": " "}, "'text_natural' is ' '"),
        ({"text_natural": "x"}, "has no readable 'records': KeyError"),
        (SCENARIO | {"records": 3}, "has no readable 'records'"),
        (SCENARIO | {"records": ["x"]}, "has no readable 'records'"),
        (SCENARIO | {"records": [{"type": "rainChance", "mode": "Chc"}]}, "KeyError('time')"),
    ],
)
def test_wrong_scenarios_are_told(tmp_path: Path, scenario: Any, message: str) -> None:
    source = _source(tmp_path / "s", {"train": [SCENARIO, scenario], "val": [SCENARIO], "test": [SCENARIO]})
    with pytest.raises(DataError) as raised:
        write_weathergov(source, tmp_path / "out")
    assert message in str(raised.value)
    assert f"{source / 'train.jsonl'}, row 2" in str(raised.value)


def test_an_empty_split_is_told(tmp_path: Path) -> None:
    source = _source(tmp_path / "s", {"train": [SCENARIO], "val": [], "test": [SCENARIO]})
    with pytest.raises(DataError, match=r"val.jsonl holds no rows"):
        write_weathergov(source, tmp_path / "out")
