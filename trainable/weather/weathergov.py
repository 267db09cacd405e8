"""WeatherGov records (Liang, Jordan and Klein 2009) become rows of input and target.

A record file holds one scenario per line: `records`, 36 readings of the United States' National Weather
Service for half a day, and `text_natural`, the forecast written from them. Readings without information are
left out of the input: chances that are `--` all day, gusts and wind chills of zero, and windows that repeat
the value of the whole period.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainable.data.readers import read_rows
from trainable.errors import DataError
from trainable.weather.splits import SPLITS, write_splits

MEASURES = {
    "temperature": "temperature",
    "windChill": "wind chill",
    "windSpeed": "wind",
    "gust": "gust",
    "precipPotential": "precipitation",
}
"""Types with a minimum, mean and maximum, and their names in the input."""

GRADES = {
    "skyCover": "sky",
    "thunderChance": "thunder",
    "rainChance": "rain",
    "snowChance": "snow",
    "freezingRainChance": "freezing rain",
    "sleetChance": "sleet",
}
"""Types with one grade for the whole period and for parts of it, and their names in the input."""

NONE = "--"
"""The grade of a chance of zero."""


def write_weathergov(source: Path, directory: Path) -> list[Path]:
    """Write `train.json`, `val.json` and `test.json` from a folder of WeatherGov records.

    Args:
        source: a folder with `train`, `val` and `test`, each `.jsonl` or `.jsonl.gz`.
        directory: where the files are written; it is created.

    Returns:
        The three paths.

    Raises:
        DataError: a file is missing, or one of its lines is not a WeatherGov scenario.
    """
    rows = {}
    for split in SPLITS:
        path = _find(source, split)
        rows[split] = [_row(scenario, f"{path}, row {number}") for number, scenario in read_rows(path)]
        if not rows[split]:
            raise DataError(f"{path} holds no rows. It must have at least one WeatherGov scenario.")
    return write_splits(directory, rows)


def linearise(period: str | None, records: Sequence[Mapping[str, Any]]) -> str:
    """Return the informative records as text, one reading per line.

    Measures are `name minimum mean maximum` (°F, mph, percent); grades are `name grade`, followed by
    `from-to:grade` for each part of the period whose grade differs. Hours count past 24 after midnight.

    Args:
        period: `day` or `night`, if known.
        records: the scenario's records.
    """
    lines = [period] if period else []
    direction = [record["mode"] for record in records if record["type"] == "windDir"]
    for kind, name in MEASURES.items():
        for record in records:
            values = [record.get("min"), record.get("mean"), record.get("max")]
            if record["type"] == kind and (any(values) or kind == "temperature"):
                words = [name, *(direction if kind == "windSpeed" else []), *values]
                lines.append(" ".join(map(str, words)))
    for kind, name in GRADES.items():
        grades = [
            (record["time"], record["mode_bucket"] if kind == "skyCover" else record["mode"])
            for record in records
            if record["type"] == kind
        ]
        if any(grade != NONE for _, grade in grades):
            whole = grades[0][1]
            parts = [f"{time}:{grade}" for time, grade in grades[1:] if grade != whole]
            lines.append(" ".join([name, whole, *parts]))
    return "\n".join(lines)


def _find(source: Path, split: str) -> Path:
    found = [path for suffix in (".jsonl", ".jsonl.gz") if (path := source / f"{split}{suffix}").is_file()]
    if not found:
        raise DataError(
            f"'{source}' has no {split}.jsonl or {split}.jsonl.gz. Name the folder that holds the "
            "WeatherGov records: train, val and test, each .jsonl or .jsonl.gz."
        )
    return found[0]


def _row(scenario: Any, where: str) -> dict[str, Any]:
    needed = "A WeatherGov scenario has `records` (a list of {type, time, ...}) and `text_natural`."
    if not isinstance(scenario, dict):
        raise DataError(f"{where} is not an object. {needed}")
    text = scenario.get("text_natural")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: 'text_natural' is {text!r}, not the text of a forecast. {needed}")
    try:
        line = linearise(scenario.get("period"), scenario["records"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where} has no readable 'records': {error!r}. {needed}") from None
    return {"input": line, "target": text.strip(), "id": scenario.get("id")}
