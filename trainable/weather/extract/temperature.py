"""Reads temperatures from forecast prose."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainable.weather.extract.quantities import Reading, readings
from trainable.weather.extract.spans import Span
from trainable.weather.extract.tokens import Unit
from trainable.weather.extract.vocabulary import Topic

_NO_CELSIUS = 55
"""No air is forecast to be as hot in °C."""
_AIR = (Topic.HIGH, Topic.LOW, Topic.TEMPERATURE)


@dataclass(frozen=True)
class Temperatures:
    """Stated temperatures in °C: high, low, and those that are said to be neither."""

    high: float | None = None
    low: float | None = None
    other: tuple[float, ...] = ()


def temperatures(text: str, default: Unit = Unit.CELSIUS) -> Temperatures:
    """Return the air temperatures that a text states, in °C.

    A range is its middle, but `temperatures from 12 to 20` is a low and a high. `Lower 50s` is 50 to 54, `mid
    70s` 73 to 77, `upper 30s` 36 to 39, `teens` 10 to 19 (the usage of the US National Weather Service).
    Wind chill, heat index, dew point, differences (`5 degrees above normal`) and the temperature of water or
    soil are not among them.

    Args:
        text: one forecast.
        default: the unit of bare numbers where `temperature_unit` cannot tell it.
    """
    found = readings(text)
    unit = _unit(found) or default
    high = low = None
    other: list[float] = []
    for reading in found:
        if not _is_temperature(reading):
            continue
        span = _celsius(reading, unit)
        if reading.topic is Topic.HIGH and high is None:
            high = span.middle
        elif reading.topic is Topic.LOW and low is None:
            low = span.middle
        elif reading.joined and reading.topic in (Topic.TEMPERATURE, None) and high is None and low is None:
            low, high = span.low, span.high
        else:
            other.append(span.middle)
    return Temperatures(high, low, tuple(other))


def temperature_unit(text: str) -> Unit | None:
    """Return the unit that a text's bare temperatures have, `None` where nothing tells.

    It is the unit that the text gives elsewhere. A text that gives none is in °F if it has a temperature of
    55 or more; else the first of these that it speaks of tells: inches or feet (°F), mm or cm (°C), mph (°F),
    km/h, knots or m/s (°C).
    """
    return _unit(readings(text))


def _unit(found: Sequence[Reading]) -> Unit | None:
    units = [reading.unit for reading in found if reading.word is None]
    for unit in units:
        if unit in (Unit.CELSIUS, Unit.FAHRENHEIT):
            return unit
    if any(_is_temperature(reading) and reading.span.high >= _NO_CELSIUS for reading in found):
        return Unit.FAHRENHEIT
    # British forecasts have mph beside °C and mm.
    cues = {Unit.INCH: Unit.FAHRENHEIT, Unit.MILLIMETRE: Unit.CELSIUS, Unit.MPH: Unit.FAHRENHEIT}
    cues |= dict.fromkeys((Unit.KMH, Unit.KNOT, Unit.MS), Unit.CELSIUS)
    return next((scale for cue, scale in cues.items() if cue in units), None)


def _is_temperature(reading: Reading) -> bool:
    if reading.unit in (Unit.CELSIUS, Unit.FAHRENHEIT):
        return reading.topic is not Topic.FELT
    if reading.unit is Unit.DEGREE:
        # "Wind 270 degrees at 10 kt" is a direction.
        return reading.topic not in (Topic.FELT, Topic.WIND, Topic.GUST)
    return reading.unit is None and reading.topic in _AIR


def _celsius(reading: Reading, default: Unit) -> Span:
    unit = reading.unit if reading.unit in (Unit.CELSIUS, Unit.FAHRENHEIT) else default
    if unit is Unit.CELSIUS:
        return reading.span
    return Span((reading.span.low - 32) * 5 / 9, (reading.span.high - 32) * 5 / 9)
