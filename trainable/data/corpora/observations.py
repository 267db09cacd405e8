"""Physically consistent weather observations of one station on one day, from a small stochastic model.

Temperature follows latitude, height, season and hour; humidity follows temperature over the dew point
(Magnus formula); low pressure brings cloud, cloud brings precipitation and a smaller daily range, the
pressure's fall brings wind; what falls is decided by temperature. Deterministic in the random generator.
"""

import math
from dataclasses import dataclass
from datetime import date

import numpy as np

HOURS = (6, 12, 18, 24)
"""Local hours that are observed; 24 is midnight at the day's end."""

DIRECTIONS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")


@dataclass(frozen=True)
class Station:
    """A place with a climate.

    Attributes:
        latitude_deg: north is positive.
        height_m: above the sea.
        inland: 0 on the coast to 1 far from it; the range of temperatures grows with it.
        units: `metric` (°C, km/h), `us` (°F, mph) or `marine` (°C, kt): the station's convention.
    """

    name: str
    latitude_deg: float
    height_m: float
    inland: float
    units: str


@dataclass(frozen=True)
class Observation:
    """One station's day, in °C, km/h, hPa, percent and mm; hourly values are at `HOURS`."""

    station: Station
    day: date
    temperature: tuple[float, ...]
    humidity: tuple[int, ...]
    wind: tuple[float, ...]
    wind_from: str
    gust: float
    pressure: tuple[int, ...]
    cloud: tuple[int, ...]
    kind: str
    chance: int
    amount_mm: float
    wettest: int


def stations(rng: np.random.Generator, names: tuple[str, ...]) -> list[Station]:
    """Give each name a climate and a convention of units."""
    return [
        Station(
            name,
            latitude_deg=float(rng.uniform(33, 63)),
            height_m=float(rng.gamma(1.5, 200)),
            inland=float(rng.beta(1.2, 1.2)),
            units=("metric", "us", "marine")[int(rng.choice(3, p=(0.45, 0.4, 0.15)))],
        )
        for name in names
    ]


def observe(rng: np.random.Generator, station: Station, day: date) -> Observation:
    """Draw one day's weather."""
    season = math.cos(2 * math.pi * (day.timetuple().tm_yday - 200) / 365.25)
    mean = 29 - 0.45 * (station.latitude_deg - 30) - 0.0065 * station.height_m
    mean += (5 + 10 * station.inland) * season - 6
    low_pressure = float(rng.normal())
    fall = float(rng.normal(0.6 * low_pressure, 2.0))
    pressure = [1014 - 8 * low_pressure - fall * (hour - 6) / 6 for hour in HOURS]
    clouded = 1 / (1 + math.exp(-1.6 * low_pressure - float(rng.normal(0, 0.8))))
    cloud = [
        float(np.clip(clouded + 0.04 * fall * number + rng.normal(0, 0.08), 0, 1)) for number in range(4)
    ]
    spread = (4 + 7 * station.inland) * (1.25 - clouded)
    today = mean + float(rng.normal(0, 4))
    daily = (-0.7, 0.8, 0.5, -0.6)
    temperature = [today + spread * part + float(rng.normal(0, 0.5)) for part in daily]
    dew = min(temperature) - 6 * (1 - clouded) - float(rng.exponential(1.5))
    breeze = float(np.clip(8 + 3.2 * abs(fall) + rng.gamma(2.0, 3.0) * (1.3 - station.inland), 0, 75))
    wind = [max(0.0, breeze * part + float(rng.normal(0, 2))) for part in (0.7, 1.0, 1.1, 0.8)]
    calm = rng.random() < 0.06
    wind = [0.0] * 4 if calm else wind
    gusty = max(wind) >= 22 and rng.random() < 0.75
    wet = float(np.clip((max(cloud) - 0.35) * 1.5 + rng.normal(0, 0.12), 0, 1))
    chance = int(round(100 * wet, -1))
    amount = float(rng.gamma(1.2, 4.0)) * wet if chance >= 30 else 0.0
    return Observation(
        station,
        day,
        tuple(temperature),
        tuple(int(np.clip(round(_humidity(t, dew)), 8, 100)) for t in temperature),
        tuple(wind),
        DIRECTIONS[int(rng.integers(8))],
        max(wind) * float(rng.uniform(1.35, 1.8)) if gusty else 0.0,
        tuple(round(p) for p in pressure),
        tuple(int(round(100 * c, -1)) for c in cloud),
        _kind(rng, float(np.mean(temperature)), season) if chance >= 20 else "none",
        chance,
        round(amount, 1),
        HOURS[int(np.argmax(cloud))],
    )


def _humidity(temperature: float, dew_point: float) -> float:
    """Relative humidity in percent by the Magnus formula (Alduchov & Eskridge 1996)."""

    def vapour(t: float) -> float:
        return math.exp(17.625 * t / (243.04 + t))

    return 100 * vapour(dew_point) / vapour(temperature)


def _kind(rng: np.random.Generator, temperature: float, season: float) -> str:
    if temperature < -1:
        return "snow"
    if temperature < 1.5:
        return "sleet"
    return "thunderstorms" if season > 0.4 and temperature > 17 and rng.random() < 0.5 else "rain"
