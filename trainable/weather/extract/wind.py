"""Reads wind speeds from forecast prose, gusts apart from sustained wind."""

from dataclasses import dataclass

from trainable.weather.extract.quantities import KMH, Reading, readings
from trainable.weather.extract.spans import Span
from trainable.weather.extract.tokens import Unit
from trainable.weather.extract.vocabulary import LULLS, Topic


@dataclass(frozen=True)
class Wind:
    """Stated wind in km/h.

    Attributes:
        phases: sustained wind, one span each time that it is said to change.
        gust: the strongest gusts.
    """

    phases: tuple[Span, ...] = ()
    gust: float | None = None

    @property
    def speed(self) -> float | None:
        """The mean of the phases' middles."""
        return sum(span.middle for span in self.phases) / len(self.phases) if self.phases else None


def wind(text: str, default: Unit = Unit.KMH) -> Wind:
    """Return the wind that a text states, in km/h.

    A speed counts only where its sentence speaks of wind or gusts: the speed of a truck is none.

    `Calm` is 0, `light` 0 to 5 mph, and, where no number tells more, `breezy` 15 to 25 and `windy` 20 to 30
    mph (the usage of the US National Weather Service). `Less than 8` is 0 to 8. A range of gusts is its
    middle.

    Args:
        text: one forecast.
        default: the unit of bare speeds in a text that gives no unit of speed.
    """
    found = [reading for reading in readings(text) if _is_wind(reading)]
    unit = next((reading.unit for reading in found if reading.unit and not reading.word), default)
    gusts = [_kmh(reading, unit).middle for reading in found if reading.topic is Topic.GUST]
    sustained = [reading for reading in found if reading.topic is not Topic.GUST]
    told = {reading.phase for reading in sustained if not reading.word}
    phases = [r for r in sustained if not r.word or (r.word in LULLS and r.phase not in told)]
    return Wind(
        tuple(_kmh(reading, unit) for reading in phases or sustained),
        max(gusts) if gusts else None,
    )


def speed_unit(text: str) -> Unit | None:
    """Return the unit of speed that a text gives first, `None` where it gives none."""
    return next((r.unit for r in readings(text) if r.unit in KMH and not r.word), None)


def _is_wind(reading: Reading) -> bool:
    return reading.topic in (Topic.WIND, Topic.GUST) and (reading.unit is None or reading.unit in KMH)


def _kmh(reading: Reading, default: Unit) -> Span:
    factor = KMH[reading.unit or default]
    low = 0.0 if reading.bound and reading.topic is not Topic.GUST else reading.span.low
    return Span(low * factor, reading.span.high * factor)
