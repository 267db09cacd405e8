"""The built-in corpus: derivable from its input, physically sound, and without a leak between the splits."""

import json
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import pytest

from trainable.data import Files, read_examples
from trainable.data.examples import Survey
from trainable.errors import DataError
from trainable.weather.corpus import write_weather
from trainable.weather.forecasts import forecast
from trainable.weather.observations import COMPASS, HOURS, Observation, observe
from trainable.weather.stations import AMERICAN, STATIONS, Station

STATION = {station.name: station for stations in STATIONS.values() for station in stations}
Rows = Mapping[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weather") / "processed"
    write_weather(folder, 1500, 200, 200, 0)
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> Rows:
    return {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in STATIONS}


@pytest.fixture(scope="module")
def every(rows: Rows) -> list[dict[str, Any]]:
    return [row for split in rows.values() for row in split]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"-?\d+", text)))


def _read(report: str, station: Station, day: date) -> Observation:
    """Read a report back; the station's name counts for its units alone, the date for nothing but itself."""
    head, temperature, humidity, wind, pressure, cloud, falls = report.split("\n")
    winds = re.findall(r"([NSEW]+)(\d+)|calm", wind.partition(": ")[2])
    gust = re.search(r"gust (\d+)", wind)
    kind, _, rest = falls.partition(": ")
    chance, _, amount = rest.partition("%")
    wet = kind != "dry"
    return Observation(
        station=station,
        day=day,
        period=head.rpartition(" ")[2],
        temperature=_numbers(temperature.partition(": ")[2]),
        humidity=_numbers(humidity),
        direction=tuple(name for name, _ in winds),
        speed=tuple(int(speed or 0) for _, speed in winds),
        gust=int(gust[1]) if gust else 0,
        pressure=_numbers(pressure),
        cloud=_numbers(cloud),
        kind=kind if wet else "",
        chance=_numbers(chance) if wet else (0, 0, 0, 0),
        amount=float(amount.split()[0]) if amount else 0,
    )


def test_every_target_follows_from_its_input(every: list[dict[str, Any]]) -> None:
    for row in every:
        station, day = STATION[row["location"]], date.fromisoformat(row["datetime"][:10])
        seen = _read(row["input"], station, day)
        assert forecast(seen) == row["target"]
        assert seen.report() == row["input"]


def test_the_units_of_a_target_are_stated_in_its_input(every: list[dict[str, Any]]) -> None:
    for row in every:
        for unit in re.findall(r"°C|km/h|mph|kt\b", row["target"]):
            assert unit in row["input"]
    inputs = "".join(row["input"] for row in every)
    assert all(unit in inputs for unit in ("°C", "°F", "km/h", "mph", "kt", " mm", " cm", " in"))


def test_numbers_of_a_target_stand_in_its_input(every: list[dict[str, Any]]) -> None:
    for row in every:
        text = re.sub(r"(mainly (before|after) )\d+[ap]m", r"\1", row["target"]).replace("minus ", "-")
        stated = set(re.findall(r"-?\d+(?:\.\d+)?", text))
        assert stated <= set(re.findall(r"-?\d+(?:\.\d+)?", re.sub(r"[NSEW](?=\d)", " ", row["input"])))


def test_splits_share_neither_station_nor_date_nor_row(rows: Rows) -> None:
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        for part in (lambda row: row["location"], lambda row: row["datetime"][:10], lambda row: row["input"]):
            assert not {part(row) for row in rows[first]} & {part(row) for row in rows[second]}
    for split in rows.values():
        assert len({(row["location"], row["datetime"]) for row in split}) == len(split)


def test_every_split_has_every_style_and_kind(rows: Rows) -> None:
    for name, split in rows.items():
        assert {row["location"] for row in split} == {station.name for station in STATIONS[name]}
        assert {s.convention.style for s in STATIONS[name]} == {"bulletin", "public", "marine"}
        last = "\n".join(row["input"].rpartition("\n")[2] for row in split)
        assert all(
            re.search(f"^{kind}\\b", last, re.M) for kind in ("dry", "rain", "snow", "sleet", "thunder")
        )


def test_texts_are_short_and_varied(every: list[dict[str, Any]]) -> None:
    assert max(len(row["input"]) for row in every) < 200
    assert max(len(row["target"]) for row in every) < 215
    assert len({row["target"] for row in every}) > 0.95 * len(every)
    assert len({re.sub(r"\d+", "0", row["target"]) for row in every}) > 0.6 * len(every)


def test_rows_have_the_projects_columns(rows: Rows, folder: Path) -> None:
    row = rows["val"][0]
    assert list(row) == ["input", "target", "prompt", "response", "location", "datetime"]
    assert row["response"] == row["target"]
    assert row["prompt"].startswith(
        f"Weather data for {row['location']} on {row['datetime']}:\n{row['input']}\n"
    )
    survey = Survey()
    example = next(read_examples(Files((folder / "val.json",)), "{input}\n", survey=survey))
    assert (example.prompt, example.target) == (row["prompt"], row["response"])
    assert list(survey.unread) == ["input", "target", "location", "datetime"]


def test_the_seed_decides(tmp_path: Path, folder: Path) -> None:
    paths = write_weather(tmp_path / "same", 1500, 3, 4, 0)
    assert [path.name for path in paths] == ["train.json", "val.json", "test.json"]
    assert paths[0].read_bytes() == (folder / "train.json").read_bytes()
    other = write_weather(tmp_path / "other", 1500, 3, 4, 1)
    assert other[0].read_bytes() != paths[0].read_bytes()
    assert not [path for path in (tmp_path / "other").iterdir() if path not in other]


@pytest.mark.parametrize("count", [0, -1, 10**6])
def test_more_rows_than_there_are_half_days_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(DataError, match=rf"--val {count} is not allowed: the corpus has 1 to 15344 val rows"):
        write_weather(tmp_path, 1, count, 1, 0)
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="taken' cannot be written to"):
        write_weather(tmp_path / "taken", 1, 1, 1, 0)


def _draw(station: Station, month: int, period: str = "day", count: int = 150) -> list[Observation]:
    rng = Random(f"{station.name} {month}")
    return [observe(station, date(2010, month, 1 + n % 28), period, rng) for n in range(count)]


def _warmth(draws: list[Observation]) -> float:
    return mean(mean(seen.temperature) for seen in draws)


def test_climate_follows_latitude_season_and_coast() -> None:
    lisbon, bergen, warsaw, cordoba = (STATION[name] for name in ("Lisbon", "Bergen", "Warsaw", "Cordoba"))
    assert _warmth(_draw(lisbon, 1)) > _warmth(_draw(bergen, 1)) + 5
    assert _warmth(_draw(warsaw, 7)) > _warmth(_draw(warsaw, 1)) + 15
    assert _warmth(_draw(cordoba, 1)) > _warmth(_draw(cordoba, 7)) + 8
    yearly = {s.name: _warmth(_draw(s, 7)) - _warmth(_draw(s, 1)) for s in (bergen, warsaw)}
    assert yearly["Bergen"] < yearly["Warsaw"]
    days = _draw(warsaw, 7)
    assert mean(seen.temperature[2] - seen.temperature[0] for seen in days) > 2


def test_the_parts_of_an_observation_agree() -> None:
    draws = [seen for s in STATION.values() for seen in _draw(s, 4, count=20) + _draw(s, 12, "night", 20)]
    for seen in draws:
        units = seen.station.convention
        assert all(0 < value <= 100 for value in seen.humidity)
        assert all(0 <= value <= 8 for value in seen.cloud)
        assert all(chance in range(0, 101, 10) for chance in seen.chance)
        assert bool(seen.kind) == (max(seen.chance) >= 20)
        assert seen.amount >= 0
        assert not seen.amount or max(seen.chance) >= 40
        assert not seen.gust or seen.gust > max(seen.speed)
        assert all(
            (name in COMPASS) == bool(speed) for name, speed in zip(seen.direction, seen.speed, strict=True)
        )
        wettest = seen.temperature[seen.chance.index(max(seen.chance))]
        celsius = (wettest - 32) / 1.8 if units is AMERICAN else wettest
        if seen.kind == "snow":
            assert celsius <= 1
        if seen.kind in ("rain", "thunder"):
            assert celsius >= 2
        if seen.kind == "thunder":
            assert celsius >= 17
    for seen in draws:
        coldest = seen.humidity[seen.temperature.index(min(seen.temperature))]
        # Hours of the same rounded temperature may differ by what a degree makes in humidity.
        assert coldest >= max(seen.humidity) - 7, "air is dampest when it is coldest"


def test_low_pressure_brings_cloud_and_wind() -> None:
    draws = [seen for station in STATION.values() for seen in _draw(station, 10, count=40)]
    low = [seen for seen in draws if mean(seen.pressure) < 1003]
    high = [seen for seen in draws if mean(seen.pressure) > 1020]
    assert mean(sum(seen.cloud) for seen in low) > mean(sum(seen.cloud) for seen in high) + 8
    kmh = {id(seen): max(seen.speed) * seen.station.convention.kmh for seen in draws}
    assert mean(kmh[id(seen)] for seen in low) > mean(kmh[id(seen)] for seen in high) + 3
    assert mean(bool(seen.kind) for seen in low) > mean(bool(seen.kind) for seen in high) + 0.3


BASE = {
    "day": date(2010, 4, 1),
    "period": "day",
    "temperature": (4, 7, 9, 8),
    "humidity": (80, 70, 60, 65),
    "direction": ("SW", "SW", "SW", "SW"),
    "speed": (12, 14, 16, 15),
    "gust": 0,
    "pressure": (1010, 1011),
    "cloud": (6, 6, 6, 6),
    "kind": "",
    "chance": (0, 0, 0, 0),
    "amount": 0,
}
RAIN = {"kind": "rain", "chance": (10, 40, 70, 60), "amount": 4}


@pytest.mark.parametrize(
    ("place", "changes", "text"),
    [
        ("Lyon", {}, "A cool day, mostly cloudy. High 9°C. Southwest wind 12 to 16 km/h."),
        (
            "Lyon",
            RAIN,
            "A cool day, mostly cloudy with rain likely from the morning on (70%), about 4 mm. High 9°C. "
            "Southwest wind 12 to 16 km/h.",
        ),
        (
            "Leeds",
            {
                "period": "night",
                "temperature": (2, -1, -4, -6),
                "cloud": (0, 0, 1, 0),
                "speed": (0, 1, 1, 0),
            },
            "A freezing night, clear. Frost. Low -6°C. Calm wind.",
        ),
        (
            "Denver",
            RAIN | {"temperature": (40, 45, 52, 50), "amount": 0.2, "gust": 27, "speed": (12, 14, 20, 15)},
            "Rain likely, mainly after 8am. Mostly cloudy, with a high near 52. "
            "Breezy, southwest wind 12 to 20 mph, gusts to 27. Chance of precipitation 70%. "
            "Rainfall near 0.2 inches.",
        ),
        (
            "Denver",
            {"temperature": (52, 45, 40, 38), "cloud": (8, 6, 2, 1)},
            "Clearing, temperature falling to around 38. Southwest wind 12 to 16 mph.",
        ),
        (
            "Fair Isle",
            {
                "period": "night",
                "temperature": (-1, -2, -3, -3),
                "direction": ("SW", "W", "W", "NW"),
                "pressure": (1010, 1002),
                "kind": "snow",
                "chance": (90, 90, 30, 0),
            },
            "Southwest 12 to 16 kt, then northwest. Snow until the late evening. Mostly cloudy. "
            "Min minus 3°C. Pressure 1002, falling quickly.",
        ),
        (
            "Fair Isle",
            {"speed": (0, 0, 1, 2), "humidity": (99, 90, 80, 80)},
            "Calm wind. Patchy fog. Mostly cloudy. Max 9°C.",
        ),
    ],
)
def test_forecasts(place: str, changes: dict[str, Any], text: str) -> None:
    assert forecast(Observation(**{"station": STATION[place]} | BASE | changes)) == text


def test_hours_are_four() -> None:
    assert [len(hours) for hours in HOURS.values()] == [4, 4]
