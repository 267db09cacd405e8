"""The built-in weather corpus: observations in, forecast texts out, in the project's row format.

Train, validation and test share neither a station nor a date, so that nothing leaks from one to another.
"""

import json
import os
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from trainable.data.corpora.forecasts import describe, forecast
from trainable.data.corpora.observations import observe, stations
from trainable.errors import DataError

_STATIONS = {
    "train": "Aldermoor Brightwater Caldbeck Dunmore Eastvale Fernhill Gullhaven Harrow Inverlay Juniper "
    "Kestrel Larkfield Millbrook Northgate Oakham Pinecrest Quarry Ravenna Stonebridge Thornbury Upland "
    "Westerly Ashby Birchwood Cove Drayton Elmsford Foxton",
    "val": "Greystone Hollow Ironwood Jasper Kingsmere Lindale Marsh Newhaven",
    "test": "Orchard Preston Redcliff Saltmarsh Tarn Underhill Vale Wickham",
}
_FIRST_DAY = {"train": date(2015, 1, 1), "val": date(2021, 1, 1), "test": date(2023, 1, 1)}
_DAYS = {"train": 6 * 365, "val": 2 * 365, "test": 2 * 365}


def write_weather(directory: Path, train: int, val: int, test: int, seed: int) -> list[Path]:
    """Write `train.json`, `val.json` and `test.json`.

    Args:
        directory: is made; files of these names in it are replaced.
        train, val, test: rows of each; at most one a station and day.
        seed: the same seed makes the same rows.

    Returns:
        The three paths.

    Raises:
        DataError: more rows are asked for than there are station days.
    """
    wanted = {"train": train, "val": val, "test": test}
    for split, rows in wanted.items():
        most = len(_STATIONS[split].split()) * _DAYS[split]
        if not 1 <= rows <= most:
            raise DataError(f"--{split} {rows}: allowed are 1 to {most} rows, one a station and day.")
    directory.mkdir(parents=True, exist_ok=True)
    return [write_rows(directory / f"{name}.json", _rows(name, rows, seed)) for name, rows in wanted.items()]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as one JSON array, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    temporary.rename(path)
    return path


def _rows(split: str, count: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng((seed, list(_STATIONS).index(split)))
    places = stations(rng, tuple(_STATIONS[split].split()))
    chosen = rng.choice(len(places) * _DAYS[split], size=count, replace=False)
    rows = []
    for number in chosen:
        place, day = (
            places[int(number) % len(places)],
            _FIRST_DAY[split] + timedelta(days=int(number) // len(places)),
        )
        seen = observe(rng, place, day)
        text, answer = describe(seen), forecast(seen)
        rows.append(
            {
                "input": text,
                "target": answer,
                "prompt": f"Weather data for {place.name} on {day}:\n{text}\nGenerate a forecast bulletin:",
                "response": answer,
                "location": place.name,
                "datetime": day.isoformat(),
            }
        )
    return rows
