"""Observations as the model's input, and the forecast text that follows from them.

Every number and every choice of words in the text is a function of what the input states, in the units that
the input states: bands of cloud, wind and chance, the hour of the wettest cloud, the pressure's tendency. The
wording also varies with the station's convention and the day of the week, both of which the input shows.
"""

from collections.abc import Callable
from dataclasses import dataclass

from trainable.data.corpora.observations import HOURS, Observation

_NAMES = {
    "N": "north", "NE": "northeast", "E": "east", "SE": "southeast",
    "S": "south", "SW": "southwest", "W": "west", "NW": "northwest",
}  # fmt: skip
_WHEN = {6: "in the morning", 12: "around midday", 18: "in the evening", 24: "overnight"}


@dataclass(frozen=True)
class Units:
    """A convention: how temperatures and winds are converted and named."""

    temperature: Callable[[float], int]
    degree: str
    wind: Callable[[float], int]
    speed: str


UNITS = {
    "metric": Units(round, "°C", round, "km/h"),
    "us": Units(lambda c: round(c * 9 / 5 + 32), "°F", lambda kmh: round(kmh / 1.609344), "mph"),
    "marine": Units(round, "°C", lambda kmh: round(kmh / 1.852), "kt"),
}


def describe(seen: Observation) -> str:
    """Return the model's input: one fact a line, hourly values in the order of the hours."""
    units = UNITS[seen.station.units]
    speeds = [units.wind(value) for value in seen.wind]
    gust = f" gust {units.wind(seen.gust)}" if seen.gust else ""
    wind = f"{seen.wind_from} {_row(speeds)} {units.speed}{gust}" if max(speeds) else f"calm {units.speed}"
    fall = (
        f"{seen.kind} {seen.chance}% {seen.amount_mm:g} mm peak {seen.wettest}"
        if seen.kind != "none"
        else "none"
    )
    return "\n".join(
        [
            f"{seen.station.name} {seen.day:%a %Y-%m-%d} hours {_row(HOURS)}",
            f"temp {_row(units.temperature(t) for t in seen.temperature)} {units.degree}",
            f"humidity {_row(seen.humidity)} %",
            f"wind {wind}",
            f"pressure {_row(seen.pressure)} hPa",
            f"cloud {_row(seen.cloud)} %",
            f"precip {fall if seen.kind != 'none' else 'none'}",
        ]
    )


def forecast(seen: Observation) -> str:
    """Return the text that `describe(seen)` determines."""
    plain = seen.day.weekday() % 2 == 0
    sentences = [_sky(seen, plain), _temperatures(seen, plain), _wind(seen, plain), _tendency(seen)]
    return " ".join(sentence for sentence in sentences if sentence)


def _row(values: object) -> str:
    return " ".join(str(value) for value in values)  # type: ignore[attr-defined]


def _sky(seen: Observation, plain: bool) -> str:
    mean = sum(seen.cloud) / len(seen.cloud)
    words = ["Sunny", "Mostly sunny", "Partly cloudy", "Mostly cloudy", "Cloudy"]
    sky = words[sum(mean >= bound for bound in (15, 35, 60, 85))]
    if seen.kind == "none":
        return f"{sky} and dry." if plain else f"{sky}, no precipitation expected."
    when = _WHEN[seen.wettest]
    if seen.chance < 30:
        return f"{sky} with a slight chance of {seen.kind} {when}."
    if seen.chance < 60:
        return f"{sky} with a {seen.chance} percent chance of {seen.kind} {when}."
    amount = f", {seen.amount_mm:g} mm" if seen.amount_mm >= 1 else ""
    likely = (
        f"{seen.kind.capitalize()} likely {when}" if seen.chance < 80 else f"{seen.kind.capitalize()} {when}"
    )
    return f"{sky}. {likely}{amount}."


def _temperatures(seen: Observation, plain: bool) -> str:
    units = UNITS[seen.station.units]
    values = [units.temperature(t) for t in seen.temperature]
    high, low = max(values), min(values)
    if seen.station.units == "us":
        return (
            f"High near {high}, low around {low}."
            if plain
            else f"Highs around {high}°F and lows near {low}°F."
        )
    if plain:
        return f"High {high}{units.degree}, low {low}{units.degree}."
    return f"Temperatures from {low} to {high}{units.degree}."


def _wind(seen: Observation, plain: bool) -> str:
    units = UNITS[seen.station.units]
    speeds = [units.wind(value) for value in seen.wind]
    if not max(speeds):
        return "Calm wind."
    low, high = min(speeds), max(speeds)
    name = _NAMES[seen.wind_from]
    span = f"{low} to {high} {units.speed}" if low < high else f"{high} {units.speed}"
    gust = units.wind(seen.gust)
    if plain:
        return f"{name.capitalize()} wind {span}" + (
            f", with gusts as high as {gust} {units.speed}." if gust else "."
        )
    return f"Winds from the {name} at {span}" + (f", gusting to {gust}." if gust else ".")


def _tendency(seen: Observation) -> str:
    change = seen.pressure[-1] - seen.pressure[0]
    if abs(change) < 4:
        return ""
    return "Pressure rising." if change > 0 else "Pressure falling."
