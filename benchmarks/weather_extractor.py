"""Precision and recall of the weather-text extractor, against the records that forecasts were written from.

    python -m benchmarks.weather_extractor CORPORA [--show 5]

CORPORA holds `weathergov/geo/{train,val,test}.jsonl.gz` (US National Weather Service, °F and mph) and
`sumtime/{train,dev,test}.jsonl.gz` (marine wind statements by hand, in knots); neither is part of this
repository. The built-in corpus (invented stations; °C and °F; km/h, mph and knots) is measured as well. The
extractor was fitted on the other splits than test, of which only the figures were looked at. `--show` prints
texts with false readings, not of test. Writes `benchmarks/results/weather_extractor.json`.

Every reading is right or wrong, and everything a record lets one expect is reached or not:

    precision = right / extracted      recall = reached / expected

WeatherGov. A temperature: a high within 1 °F of the record's maximum, a low of its minimum, any other within
minimum..maximum +- 1 °F; expected is a day's maximum and a night's minimum. A wind phase: both ends within
minimum..maximum +- 3 mph (5 km/h); one is expected. A gust: within 3 mph of the maximum; expected if that is
above 0. Precipitation: wet if any chance of the record is not `--`; its kinds one by one; its chance within
minimum..maximum +- 5 %. SumTime and the built-in corpus: equal numbers, phase by phase; the strongest gust; a
chance that only words tell is in the record's band of the words.

Texts do not always follow their records: forecasters round, blend and correct. A WeatherGov text disagrees
if no number in it fits the record (or, for a gust, it has no "gust"; for precipitation, no word for it), a
SumTime text if its numbers are not those of its record. Its quantity is then counted under `text_disagrees`
and not otherwise. What fits by chance still counts against the extractor.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from benchmarks.record import write_result
from trainable.data.readers import read_rows
from trainable.weather.corpus import DATES
from trainable.weather.extract import (
    KMH,
    Precipitation,
    Span,
    Temperatures,
    Unit,
    precipitation,
    temperatures,
    wind,
)
from trainable.weather.forecasts import forecast
from trainable.weather.observations import HOURS, Observation, observe
from trainable.weather.stations import STATIONS

Row = TypeVar("Row")
_BUILTIN_ROWS = 1000
_NUMBER = re.compile(r"\d+")
_WORDS = {
    "rain": r"rain|shower|drizzle|sprinkle",
    "snow": r"snow|flurr",
    "ice": r"freezing (?:rain|drizzle)|sleet|ice pellets|wintry",
    "thunder": r"thunder|storm",
}
_CHANCES = {
    "rainChance": "rain",
    "snowChance": "snow",
    "freezingRainChance": "ice",
    "sleetChance": "ice",
    "thunderChance": "thunder",
}


@dataclass(frozen=True)
class Outcome:
    """One quantity of one text.

    Attributes:
        right: of each reading, whether it is.
        reached: of each thing expected, whether it is.
        disagrees: whether the text disagrees with its record, so that the others say nothing.
    """

    quantity: str
    right: Sequence[bool]
    reached: Sequence[bool]
    disagrees: bool = False


@dataclass
class Tally:
    """Sums of outcomes."""

    counts: Counter[str] = field(default_factory=Counter)
    false: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome, text: str) -> None:
        """Count one outcome."""
        if outcome.disagrees:
            self.counts["text_disagrees"] += 1
            return
        self.counts["extracted"] += len(outcome.right)
        self.counts["right"] += sum(outcome.right)
        self.counts["expected"] += len(outcome.reached)
        self.counts["reached"] += sum(outcome.reached)
        if not all((*outcome.right, *outcome.reached)):
            self.false.append(text)

    def told(self) -> dict[str, float | int | None]:
        """Return the counts, the precision and the recall."""
        names = ("extracted", "right", "expected", "reached", "text_disagrees")
        counts = {name: self.counts[name] for name in names}
        return {
            "precision": _ratio(counts["right"], counts["extracted"]),
            "recall": _ratio(counts["reached"], counts["expected"]),
            **counts,
        }


def main() -> None:
    """Measure every split of every corpus, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpora", type=Path)
    parser.add_argument(
        "--show", type=int, default=0, help="false readings to print a quantity (not of test)"
    )
    wanted = parser.parse_args()
    found = {}
    for split in ("train", "val", "test"):
        rows = [row for _, row in read_rows(wanted.corpora / "weathergov" / "geo" / f"{split}.jsonl.gz")]
        found[f"weathergov/geo/{split}"] = _measure(rows, _weathergov)
    for split in ("train", "dev", "test"):
        rows = [row for _, row in read_rows(wanted.corpora / "sumtime" / f"{split}.jsonl.gz")]
        found[f"sumtime/{split}"] = _measure(rows, _sumtime)
    for split in STATIONS:
        found[f"builtin/{split}"] = _measure(_observations(split), _builtin)
    for name, (_, tallies) in found.items():
        if not name.endswith("/test"):
            _show(name, tallies, wanted.show)
    told = {
        name: {"texts": texts, **{quantity: tally.told() for quantity, tally in tallies.items()}}
        for name, (texts, tallies) in found.items()
    }
    write_result("weather_extractor", told)
    print(json.dumps(told, indent=2))


def _measure(
    rows: Sequence[Row], judge: Callable[[Row], tuple[str, Iterable[Outcome]]]
) -> tuple[int, dict[str, Tally]]:
    tallies: dict[str, Tally] = {}
    for row in rows:
        text, outcomes = judge(row)
        for outcome in outcomes:
            tallies.setdefault(outcome.quantity, Tally()).add(outcome, text)
    return len(rows), tallies


def _show(name: str, tallies: Mapping[str, Tally], most: int) -> None:
    for quantity, tally in tallies.items():
        for text in tally.false[:most]:
            print(f"{name} {quantity}: {text}")


def _weathergov(row: Mapping[str, Any]) -> tuple[str, Iterator[Outcome]]:
    text = row["text_natural"]
    records: dict[str, list[Mapping[str, Any]]] = {}
    for record in row["records"]:
        records.setdefault(record["type"], []).append(record)
    whole = {kind: several[0] for kind, several in records.items()}

    def outcomes() -> Iterator[Outcome]:
        if row["period"]:
            yield _weathergov_temperature(text, whole["temperature"], row["period"])
        yield from _weathergov_wind(text, whole["windSpeed"], whole["gust"])
        kinds = {
            kind for name, kind in _CHANCES.items() if any(record["mode"] != "--" for record in records[name])
        }
        potential = whole["precipPotential"]
        claim = precipitation(text)
        near = claim is not None and potential["min"] - 5 <= claim.chance <= potential["max"] + 5
        yield from _precipitation(text, claim, kinds, near)

    return text, outcomes()


def _weathergov_temperature(text: str, record: Mapping[str, Any], period: str) -> Outcome:
    low, high = record["min"], record["max"]
    found = _in_fahrenheit(temperatures(text, Unit.FAHRENHEIT))
    right = [abs(value - high) <= 1.01 for value in found["high"]]
    right += [abs(value - low) <= 1.01 for value in found["low"]]
    right += [low - 1.01 <= value <= high + 1.01 for value in found["other"]]
    expected = high if period == "day" else low
    everything = [value for values in found.values() for value in values]
    reached = any(abs(value - expected) <= 1.01 for value in everything)
    agrees = any(abs(number - abs(expected)) <= 1 for number in _numbers(text))
    return Outcome("temperature", right, [reached], not agrees)


def _weathergov_wind(text: str, speed: Mapping[str, Any], gust: Mapping[str, Any]) -> Iterator[Outcome]:
    found = wind(text, Unit.MPH)
    fits = [
        speed["min"] - 3.01 <= span.low and span.high <= speed["max"] + 3.01
        for span in _spans(found.phases, Unit.MPH)
    ]
    told = any(speed["min"] - 3 <= number <= speed["max"] + 3 for number in _numbers(text))
    told |= re.search(r"calm|light", text, re.IGNORECASE) is not None
    yield Outcome("wind", fits, [any(fits)], not told)
    strongest = gust["max"]
    gusts = [] if found.gust is None else [found.gust / KMH[Unit.MPH]]
    right = [abs(value - strongest) <= 3.01 for value in gusts]
    told = not strongest or any(abs(number - strongest) <= 3 for number in _numbers(text))
    told &= not strongest or "gust" in text.lower()
    yield Outcome("gust", right, [any(right)] if strongest else [], not told)


def _precipitation(text: str, claim: Precipitation | None, kinds: set[str], near: bool) -> Iterator[Outcome]:
    """Judge the verdict, the kinds and the chance; a text without a word for what falls disagrees."""
    wet = claim is not None and claim.wet
    told = {kind for kind, words in _WORDS.items() if re.search(words, text, re.IGNORECASE)}
    yield Outcome("precipitation", [bool(kinds)] * wet, [wet] * bool(kinds), bool(kinds) and not told)
    said = claim.kinds if claim is not None else frozenset()
    yield Outcome(
        "precipitation_kind", [kind in kinds for kind in said], [kind in said for kind in kinds & told]
    )
    yield Outcome("precipitation_chance", [near] * wet, [near] * bool(kinds), not told or not kinds)


def _sumtime(row: Mapping[str, Any]) -> tuple[str, list[Outcome]]:
    text, unit = row["text"], Unit.KNOT
    found = wind(text, unit)
    extracted = Counter((round(span.low), round(span.high)) for span in _spans(found.phases, unit))
    recorded: Counter[tuple[int, int]] = Counter()
    for record in row["records"]:
        if "WindSpeedMin" in record:
            low = int(record["WindSpeedMin"])
            # A record without a maximum is an upper bound: "8 or less".
            recorded[(low, int(record["WindSpeedMax"])) if "WindSpeedMax" in record else (0, low)] += 1
    common = (extracted & recorded).total()
    speeds = [
        (int(value), key.startswith("Gust"))
        for record in row["records"]
        for key, value in record.items()
        if key.startswith(("WindSpeedM", "GustSpeedM"))
    ]
    strongest = max((speed for speed, is_gust in speeds if is_gust), default=None)
    read = None if found.gust is None else round(found.gust / KMH[unit])
    disagrees = {speed for speed, _ in speeds} != set(_numbers(text))
    return text, [
        Outcome("wind", _marks(common, extracted.total()), _marks(common, recorded.total()), disagrees),
        Outcome(
            "gust",
            [] if read is None else [read == strongest],
            [] if strongest is None else [read == strongest],
            disagrees,
        ),
    ]


def _marks(true: int, total: int) -> list[bool]:
    return [True] * true + [False] * (total - true)


def _observations(split: str) -> list[Observation]:
    rng = Random(f"extractor {split}")
    first, end = DATES[split]
    days = [first + (end - first) * rng.random() for _ in range(_BUILTIN_ROWS)]
    return [observe(rng.choice(STATIONS[split]), day, rng.choice(tuple(HOURS)), rng) for day in days]


def _builtin(seen: Observation) -> tuple[str, list[Outcome]]:
    text, convention = forecast(seen), seen.station.convention
    unit = Unit(convention.speed)
    found = wind(text)
    heat = temperatures(text)
    values = _in_fahrenheit(heat) if convention.temperature == "°F" else _in_celsius(heat)
    right = [abs(value - max(seen.temperature)) < 0.01 for value in values["high"]]
    right += [abs(value - min(seen.temperature)) < 0.01 for value in values["low"]]
    right += [any(abs(value - degrees) < 0.01 for degrees in seen.temperature) for value in values["other"]]
    spans = [(round(span.low), round(span.high)) for span in _spans(found.phases, unit)]
    vague = "Calm" in text or "Light wind" in text
    low = 0 if vague else min(seen.speed)
    high = 0 if "Calm" in text else max(seen.speed)
    blows = [span == (low, high) for span in spans]
    gusts = [] if found.gust is None else [round(found.gust / KMH[unit]) == seen.gust]
    kinds = {seen.kind.replace("sleet", "ice")} if seen.kind else set()
    claim = precipitation(text)
    chance = max(seen.chance)
    near = claim is not None and (
        claim.chance == chance if "%" in text else _band(claim.chance) == _band(chance)
    )
    return text, [
        Outcome("temperature", right, [any(right)]),
        Outcome("wind", blows, [any(blows)]),
        Outcome("gust", gusts, [any(gusts)] if seen.gust and not vague else []),
        *_precipitation(text, claim, kinds, near),
    ]


def _band(chance: float) -> int:
    return sum(chance >= bound for bound in (30, 60, 80))


def _in_celsius(found: Temperatures) -> dict[str, list[float]]:
    levels = {"high": found.high, "low": found.low}
    told = {name: [] if value is None else [value] for name, value in levels.items()}
    return {**told, "other": list(found.other)}


def _in_fahrenheit(found: Temperatures) -> dict[str, list[float]]:
    return {name: [value * 9 / 5 + 32 for value in values] for name, values in _in_celsius(found).items()}


def _spans(phases: Iterable[Span], unit: Unit) -> list[Span]:
    return [Span(span.low / KMH[unit], span.high / KMH[unit]) for span in phases]


def _numbers(text: str) -> list[int]:
    return [*map(int, _NUMBER.findall(text)), *([0] if "zero" in text else [])]


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


if __name__ == "__main__":
    main()
