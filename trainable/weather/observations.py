"""Half a day's weather at a station, drawn so that its parts agree with one another, and its report.

One weather system rules a draw: how deep its low is and whether the pressure falls. Cloud, wind, gusts and
the chance of precipitation follow from it; temperature follows latitude, elevation, coast, season and hour,
less so under cloud; humidity follows temperature over a dew point by the Magnus formula; and temperature
decides what falls. An `Observation` holds just what its report says, in the station's units and rounded:
whatever is derived from it can be derived from the report.
"""

import math
from dataclasses import dataclass
from datetime import date
from random import Random

from trainable.weather.stations import Convention, Station

HOURS = {"day": (6, 10, 14, 18), "night": (18, 22, 2, 6)}
"""Local hours that a report has values for."""

COMPASS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")
"""Where the wind comes from, clockwise."""


@dataclass(frozen=True)
class Observation:
    """What a report says; sequences hold a value for each of the four hours.

    Attributes:
        station: where.
        day: the date on which the half day begins.
        period: `day` or `night`.
        temperature: in the station's unit.
        humidity: relative, in percent.
        direction: where the wind comes from, a name of `COMPASS`; empty in a calm.
        speed: of the wind, in the station's unit.
        gust: the strongest, in the station's unit; 0 where there are none.
        pressure: at sea level, in hPa, at the first and at the last hour.
        cloud: in eighths of the sky.
        kind: `rain`, `snow`, `sleet` or `thunder`; empty where it stays dry.
        chance: of precipitation, in percent.
        amount: of rain or of fresh snow, in the station's unit; 0 where it is too little to tell.
    """

    station: Station
    day: date
    period: str
    temperature: tuple[int, ...]
    humidity: tuple[int, ...]
    direction: tuple[str, ...]
    speed: tuple[int, ...]
    gust: int
    pressure: tuple[int, int]
    cloud: tuple[int, ...]
    kind: str
    chance: tuple[int, ...]
    amount: float

    @property
    def amount_unit(self) -> str:
        """The unit of `amount`."""
        units = self.station.convention
        return units.snow if self.kind == "snow" else units.rain

    def report(self) -> str:
        """Return the observation as the model sees it, one reading a line."""
        units = self.station.convention
        winds = [f"{d}{s}" if s else "calm" for d, s in zip(self.direction, self.speed, strict=True)]
        gust = f" gust {self.gust}" if self.gust else ""
        amount = f" {self.amount:g} {self.amount_unit}" if self.amount else ""
        return "\n".join(
            [
                f"{self.station.name} {self.day:%b} {self.day.day} {self.period}",
                f"temp {units.temperature}: {_spaced(self.temperature)}",
                f"humidity: {_spaced(self.humidity)}",
                f"wind {units.speed}: {' '.join(winds)}{gust}",
                f"pressure: {_spaced(self.pressure)}",
                f"cloud: {_spaced(self.cloud)}",
                f"{self.kind}: {_spaced(self.chance)}%{amount}" if self.kind else "dry",
            ]
        )


@dataclass(frozen=True)
class _System:
    """The weather system of one half day.

    Attributes:
        depth: of its low, in standard deviations; negative under a high.
        fall_hpa: how far the pressure falls over the period; negative where it rises.
        cover: share of the sky under cloud, at each hour.
    """

    depth: float
    fall_hpa: float
    cover: tuple[float, ...]


def observe(station: Station, day: date, period: str, rng: Random) -> Observation:
    """Draw the weather of one half day.

    Args:
        station: where; its latitude, elevation and coast make the climate.
        day: when; it makes the season.
        period: `day` or `night`.
        rng: decides the rest.
    """
    units = station.convention
    system = _system(rng)
    celsius = _temperatures(station, day, period, system, rng)
    dew_point = min(celsius) - rng.uniform(0.1, 3) - 9 * (1 - max(system.cover)) * rng.random()
    humidity = tuple(_humidity(value, dew_point) for value in celsius)
    direction, speed, gust = _wind(station, system, rng)
    chance = _chances(system, humidity, rng)
    kind = _kind(celsius[chance.index(max(chance))], dew_point, system, period) if any(chance) else ""
    base = 1013 - 8 * system.depth + system.fall_hpa / 2
    return Observation(
        station=station,
        day=day,
        period=period,
        temperature=tuple(_degrees(value, units) for value in celsius),
        humidity=humidity,
        direction=tuple(d if round(s / units.kmh) else "" for d, s in zip(direction, speed, strict=True)),
        speed=tuple(round(value / units.kmh) for value in speed),
        gust=round(gust / units.kmh),
        pressure=(round(base), round(base - system.fall_hpa)),
        cloud=tuple(round(8 * value) for value in system.cover),
        kind=kind,
        chance=chance,
        amount=_amount(max(chance), kind, units, rng),
    )


def _system(rng: Random) -> _System:
    depth = rng.gauss(0, 1)
    fall_hpa = rng.gauss(1.5 * depth, 4)
    middle = 1 / (1 + math.exp(-1.5 * depth - rng.gauss(0.2, 1)))
    cover = [middle + fall_hpa / 30 * (hour - 1.5) + rng.gauss(0, 0.06) for hour in range(4)]
    return _System(depth, fall_hpa, tuple(_clamp(value, 0, 1) for value in cover))


def _temperatures(
    station: Station, day: date, period: str, system: _System, rng: Random
) -> tuple[float, ...]:
    """Return °C at each hour."""
    polar = abs(station.latitude_deg)
    # A zonal mean that falls with the square of the latitude; the sea adds warmth and takes extremes away.
    mean = 27.5 - 0.0072 * polar**2 + 0.06 * polar * station.coast - 0.0065 * station.elevation_m
    hottest = 200 if station.latitude_deg > 0 else 17
    season = math.cos(2 * math.pi * (day.timetuple().tm_yday - hottest) / 365.25)
    swing = (0.16 if station.coast else 0.31) * polar * season
    daily = (3 if station.coast else 6.5) * (1.1 - 0.8 * sum(system.cover) / 4)
    # Behind a cold front the pressure rises and colder air comes in, hour by hour.
    front = min(0.0, 0.35 * (system.fall_hpa + 3))
    anomaly = rng.gauss(0, 3.5)
    return tuple(
        mean
        + swing
        + anomaly
        + front * step
        + daily * math.cos(2 * math.pi * (hour - 15) / 24)
        + rng.gauss(0, 0.4)
        for step, hour in enumerate(HOURS[period])
    )


def _wind(station: Station, system: _System, rng: Random) -> tuple[tuple[str, ...], tuple[float, ...], float]:
    """Return the directions, the speeds and the strongest gust, in km/h."""
    mean = 5 + 2.2 * abs(system.fall_hpa) + 5 * max(0.0, system.depth) + (6 if station.coast else 0)
    mean = min(60.0, mean * rng.lognormvariate(-0.15, 0.45))
    rise = rng.gauss(system.fall_hpa / 40, 0.1)
    speed = tuple(max(0.0, mean * (1 + rise * (hour - 1.5)) + rng.gauss(0, 0.8) - 2) for hour in range(4))
    # Ahead of a low the wind blows from the equator's side, behind it from the pole's; in between it veers,
    # clockwise in the northern hemisphere.
    north = station.latitude_deg > 0
    start = rng.choice((3, 4, 5)) if system.fall_hpa > 0 else rng.choice((5, 6, 7, 0, 1))
    turn = max(0, round(rng.gauss(abs(system.fall_hpa) / 4, 0.7)))
    points = [start + round(turn * hour / 3) for hour in range(4)]
    direction = tuple(COMPASS[(point if north else 4 - point) % 8] for point in points)
    gust = max(speed) * rng.uniform(1.35, 1.7)
    return direction, speed, gust if max(speed) > 18 else 0.0


def _chances(system: _System, humidity: tuple[int, ...], rng: Random) -> tuple[int, ...]:
    """Return the chance of precipitation in percent at each hour, in tens; below 20 it stays dry."""
    wetness = rng.gauss(0, 0.12) + 0.12 * system.depth
    chances = tuple(
        round(_clamp(10 * (1.9 * (cover - 0.55) + wetness + 0.008 * (air - 75)), 0, 10)) * 10
        for cover, air in zip(system.cover, humidity, strict=True)
    )
    return chances if max(chances) >= 20 else (0,) * len(chances)


def _kind(celsius: float, dew_point: float, system: _System, period: str) -> str:
    """Return what falls at a temperature (°C); thunder needs warm, moist air and a sky not all covered."""
    if celsius <= 0.5:
        return "snow"
    if celsius <= 2.5:
        return "sleet"
    convective = celsius > (20 if period == "day" else 18) and dew_point > 13
    return "thunder" if convective and min(system.cover) < 0.8 else "rain"


def _amount(chance: int, kind: str, units: Convention, rng: Random) -> float:
    """Return how much falls, in the convention's unit, 0 where it is too little to tell."""
    if chance < 40:
        return 0.0
    millimetres = rng.expovariate(1 / 4.5) * chance / 60
    if kind == "snow":
        return round(millimetres / (2.54 if units.snow == "in" else 1))
    return round(millimetres / units.mm, 1) if units.rain == "in" else round(millimetres)


def _humidity(celsius: float, dew_point: float) -> int:
    """Return relative humidity in percent: the ratio of the vapour pressures at dew point and temperature.

    The pressures are Magnus's, with the constants of Alduchov and Eskridge (1996).
    """
    exponent = 17.625 * dew_point / (243.04 + dew_point) - 17.625 * celsius / (243.04 + celsius)
    return round(100 * math.exp(exponent))


def _degrees(celsius: float, units: Convention) -> int:
    return round(celsius * 9 / 5 + 32 if units.temperature == "°F" else celsius)


def _clamp(value: float, low: float, high: float) -> float:
    return min(high, max(low, value))


def _spaced(values: tuple[int, ...]) -> str:
    return " ".join(map(str, values))
