"""The built-in weather corpus: reports of invented weather at real places, and the forecasts that follow.

The three files share neither stations nor dates, and no station's half day is drawn twice, so a model is
never scored on anything it has seen in training.
"""

from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Any

from trainable.errors import DataError
from trainable.weather.forecasts import forecast
from trainable.weather.observations import HOURS, observe
from trainable.weather.splits import write_splits
from trainable.weather.stations import STATIONS

DATES = {
    "train": (date(2000, 1, 1), date(2018, 1, 1)),
    "val": (date(2018, 1, 1), date(2021, 1, 1)),
    "test": (date(2021, 1, 1), date(2024, 1, 1)),
}
"""First date of each split, and the date after its last."""

PERIODS = tuple(HOURS)


def write_weather(directory: Path, train: int, val: int, test: int, seed: int) -> list[Path]:
    """Write `train.json`, `val.json` and `test.json` of the built-in corpus.

    A row has `prompt` and `response`, as the Weather Forecasting LoRA project words them, the bare report and
    forecast as `input` and `target`, `location` and `datetime`.

    Args:
        directory: where the files are written; it is created.
        train: training rows.
        val: validation rows.
        test: test rows.
        seed: the same seed gives the same files.

    Returns:
        The three paths.

    Raises:
        DataError: a count is 0, or larger than the number of half days at the split's stations.
    """
    counts = {"train": train, "val": val, "test": test}
    return write_splits(
        directory, {split: weather_rows(split, count, seed) for split, count in counts.items()}
    )


def weather_rows(split: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of one split, as `write_weather` writes them.

    Raises:
        DataError: more rows are asked for than the split's stations have half days, or none.
    """
    stations, (first, end) = STATIONS[split], DATES[split]
    most = len(stations) * len(PERIODS) * (end - first).days
    if not 1 <= count <= most:
        raise DataError(f"--{split} {count} is not allowed: the corpus has 1 to {most} {split} rows.")
    rng = Random(f"{split} {seed}")
    rows = []
    for number in rng.sample(range(most), count):
        number, place = divmod(number, len(stations))
        day, half = divmod(number, len(PERIODS))
        station, period = stations[place], PERIODS[half]
        seen = observe(station, first + timedelta(days=day), period, rng)
        report, target = seen.report(), forecast(seen)
        time = f"{seen.day.isoformat()}T{HOURS[period][0]:02}:00"
        rows.append(
            {
                "input": report,
                "target": target,
                "prompt": f"Weather data for {station.name} on {time}:\n{report}\n"
                "Generate a forecast bulletin:\n",
                "response": target,
                "location": station.name,
                "datetime": time,
            }
        )
    return rows
