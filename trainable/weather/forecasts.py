"""The forecast that follows from a report, in the style of the station's convention.

A forecast is a function of its report alone. Numbers are copied from it; words follow from bands of its
values: of cloud, wind, warmth, chance, and the hours at which it is wet. Nothing is drawn at random, so a
model that has understood the reports can write every text exactly.
"""

from collections.abc import Callable, Mapping

from trainable.weather.observations import Observation

DIRECTIONS = {
    "N": "north",
    "NE": "northeast",
    "E": "east",
    "SE": "southeast",
    "S": "south",
    "SW": "southwest",
    "W": "west",
    "NW": "northwest",
}
PRECIPITATION = {"rain": "rain", "snow": "snow", "sleet": "sleet", "thunder": "thunderstorms"}
PARTS = {
    "day": ("early morning", "morning", "afternoon", "evening"),
    "night": ("evening", "late evening", "small hours", "early morning"),
}
"""What the four hours of a report are called."""
CLOCK = {"day": ("8am", "noon", "4pm"), "night": ("8pm", "midnight", "4am")}
"""The times between two hours of a report, for the public style."""


def forecast(seen: Observation) -> str:
    """Return the forecast for what a report says."""
    return " ".join(sentence for sentence in STYLES[seen.station.convention.style](seen) if sentence)


def _bulletin(seen: Observation) -> list[str]:
    """Prose in °C: `A cold, cloudy day with rain likely in the afternoon (70%), about 4 mm. ...`."""
    warmth = _band(_celsius(seen), (-10, 0, 7, 13, 20, 27), _WARMTH)
    article = "An" if warmth[0] in "aeiou" else "A"
    wet = _wet_words(seen)
    amount = f", about {seen.amount:g} {seen.amount_unit}" if seen.amount else ""
    falls = f" with {wet}{_when(seen)} ({max(seen.chance)}%){amount}" if wet else ""
    low, high = min(seen.temperature), max(seen.temperature)
    if _falling(seen):
        temperature = f"Temperature falling from {high} to {low}°C."
    elif high - low <= 2:
        temperature = f"Temperature near {seen.temperature[2]}°C throughout."
    else:
        temperature = f"High {high}°C." if seen.period == "day" else f"Low {low}°C."
    return [
        f"{article} {warmth} {seen.period}, {_sky(seen).lower()}{falls}.",
        "" if wet else _mist(seen),
        temperature,
        _wind(seen, "{direction} wind {span} {unit}", "becoming {direction}", "gusting to {gust}"),
    ]


def _public(seen: Observation) -> list[str]:
    """The United States' public forecasts: `Rain likely, mainly after noon. Cloudy, high near 40. ...`."""
    wet = _wet_words(seen)
    low, high = min(seen.temperature), max(seen.temperature)
    if _falling(seen):
        temperature = f"temperature falling to around {low}"
    else:
        temperature = f"with a high near {high}" if seen.period == "day" else f"with a low around {low}"
    measure = "Snow accumulation" if seen.kind == "snow" else "Rainfall"
    inches = "inch" if seen.amount == 1 else "inches"
    breezy = _band(_kmh(seen), (30, 45), ("", "Breezy, ", "Windy, "))
    wind = _wind(seen, "{direction} wind {span} {unit}", "becoming {direction}", "gusts to {gust}")
    return [
        f"{wet.capitalize()}{_clock(seen)}." if wet else _mist(seen),
        f"{_sky(seen)}, {temperature}.",
        breezy + (wind[0].lower() + wind[1:] if breezy else wind),
        f"Chance of precipitation {max(seen.chance)}%." if wet else "",
        f"{measure} near {seen.amount:g} {inches}." if seen.amount else "",
    ]


def _marine(seen: Observation) -> list[str]:
    """The terse style of shipping forecasts: `Southwest 12 to 18 kt, then west, gusts 29. Rain. ...`."""
    wet = _wet_words(seen)
    change = seen.pressure[1] - seen.pressure[0]
    tendency = _band(change, (-6, -2, 3, 7), ("falling quickly", "falling", "", "rising", "rising quickly"))
    degrees = min(seen.temperature) if seen.period == "night" else max(seen.temperature)
    signed = f"minus {-degrees}" if degrees < 0 else str(degrees)
    return [
        _wind(seen, "{direction} {span} {unit}", "then {direction}", "gusts {gust}"),
        f"{wet.capitalize()}{_when(seen)}." if wet else _mist(seen) or "Fair.",
        f"{_sky(seen)}.",
        f"{'Min' if seen.period == 'night' else 'Max'} {signed}°C.",
        f"Pressure {seen.pressure[1]}, {tendency}." if tendency else "",
    ]


STYLES: Mapping[str, Callable[[Observation], list[str]]] = {
    "bulletin": _bulletin,
    "public": _public,
    "marine": _marine,
}

_WARMTH = ("bitterly cold", "freezing", "cold", "cool", "mild", "warm", "hot")
_DAY_SKY = ("Sunny", "Mostly sunny", "Partly sunny", "Mostly cloudy", "Cloudy")
_NIGHT_SKY = ("Clear", "Mostly clear", "Partly cloudy", "Mostly cloudy", "Cloudy")


def _band(value: float, bounds: tuple[int, ...], words: tuple[str, ...]) -> str:
    """Return the word of the band that `value` is in; a bound belongs to the band above it."""
    return words[sum(value >= bound for bound in bounds)]


def _sky(seen: Observation) -> str:
    """Tell the cloud from the first and the last hour where it changes much, else from the mean."""
    words = _DAY_SKY if seen.period == "day" else _NIGHT_SKY
    if seen.cloud[-1] - seen.cloud[0] >= 4:
        return "Increasing cloud"
    if seen.cloud[0] - seen.cloud[-1] >= 4:
        return "Clearing"
    return _band(sum(seen.cloud), (4, 12, 20, 28), words)


def _wet_words(seen: Observation) -> str:
    """Tell what falls and how surely, in the words of the United States' National Weather Service."""
    if not seen.kind:
        return ""
    name = PRECIPITATION[seen.kind]
    chance = max(seen.chance)
    if chance >= 60:
        return f"{name} likely" if chance < 80 else name
    return f"a {'slight ' if chance < 30 else ''}chance of {name}"


def _wet_hours(seen: Observation) -> list[int]:
    """Return the places of the hours with more than half of the highest chance."""
    return [place for place, chance in enumerate(seen.chance) if 2 * chance > max(seen.chance)]


def _when(seen: Observation) -> str:
    """Tell the wet hours by the part of the day or night; empty where all are wet."""
    wet = _wet_hours(seen)
    parts = PARTS[seen.period]
    if len(wet) == 1:
        return f" in the {parts[wet[0]]}"
    if wet[0] == 0:
        return "" if wet[-1] == 3 else f" until the {parts[wet[-1]]}"
    return f" from the {parts[wet[0]]} on"


def _clock(seen: Observation) -> str:
    """Tell the wet hours by the clock; empty where all are wet."""
    wet = _wet_hours(seen)
    times = CLOCK[seen.period]
    if wet[0] == 0:
        return "" if wet[-1] == 3 else f", mainly before {times[wet[-1]]}"
    return f", mainly after {times[wet[0] - 1]}"


def _mist(seen: Observation) -> str:
    """Tell fog and frost, which need damp air and little wind, or a clear cold night."""
    if max(seen.humidity) >= 97 and _kmh(seen) < 15:
        return "Patchy fog."
    return "Frost." if seen.period == "night" and _celsius(seen) <= 0 and sum(seen.cloud) < 12 else ""


def _falling(seen: Observation) -> bool:
    """Whether a day grows colder from hour to hour, against the sun."""
    return seen.period == "day" and all(
        later <= earlier for earlier, later in zip(seen.temperature, seen.temperature[1:], strict=False)
    )


def _wind(seen: Observation, steady: str, turn: str, gusts: str) -> str:
    """Tell the wind: its span, then its turn or else its rise or fall, then its gusts."""
    unit = seen.station.convention.speed
    low, high = min(seen.speed), max(seen.speed)
    if _kmh(seen) < 4:
        return "Calm wind."
    if _kmh(seen) < 9:
        return f"Light wind up to {high} {unit}."
    blown = [direction for direction in seen.direction if direction]
    first, last = blown[0], blown[-1]
    words = [steady.format(direction=DIRECTIONS[first].capitalize(), span=_span(low, high), unit=unit)]
    if first != last:
        words.append(turn.format(direction=DIRECTIONS[last]))
    elif 3 * (seen.speed[-1] - seen.speed[0]) >= 2 * high:
        words.append("increasing")
    elif 3 * (seen.speed[0] - seen.speed[-1]) >= 2 * high:
        words.append("easing")
    if seen.gust:
        words.append(gusts.format(gust=seen.gust))
    return f"{', '.join(words)}."


def _span(low: int, high: int) -> str:
    return str(high) if high == low else f"{low} to {high}"


def _kmh(seen: Observation) -> float:
    """Return the strongest sustained wind in km/h."""
    return max(seen.speed) * seen.station.convention.kmh


def _celsius(seen: Observation) -> float:
    """Return the temperature that the half day is told by, in °C: a day's highest, a night's lowest."""
    value = max(seen.temperature) if seen.period == "day" else min(seen.temperature)
    return (value - 32) * 5 / 9 if seen.station.convention.temperature == "°F" else value
