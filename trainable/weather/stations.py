"""The weather stations of the built-in corpus, their conventions of units, and who belongs to which split.

No station is in two splits, and every split has stations of each convention, of the coast and of the inland.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Convention:
    """The units a station reports in, and thereby the style its forecasts are written in.

    Attributes:
        style: `bulletin`, `public` or `marine`.
        temperature: `°C` or `°F`.
        speed: unit of wind speed.
        kmh: km/h in one unit of wind speed.
        rain: unit of rainfall, `mm` or `in`.
        mm: millimetres in one unit of rainfall.
        snow: unit of fresh snow, `cm` or `in`; one millimetre of water is a centimetre of it.
    """

    style: str
    temperature: str
    speed: str
    kmh: float
    rain: str
    mm: float
    snow: str


METRIC = Convention("bulletin", "°C", "km/h", 1.0, "mm", 1.0, "cm")
BRITISH = Convention("bulletin", "°C", "mph", 1.609344, "mm", 1.0, "cm")
AMERICAN = Convention("public", "°F", "mph", 1.609344, "in", 25.4, "in")
MARINE = Convention("marine", "°C", "kt", 1.852, "mm", 1.0, "cm")


@dataclass(frozen=True)
class Station:
    """A place with a climate.

    Attributes:
        name: as reports call it.
        latitude_deg: north is positive.
        elevation_m: above the sea.
        coast: whether the sea evens out its temperatures.
        convention: the units it reports in.
    """

    name: str
    latitude_deg: float
    elevation_m: int
    coast: bool
    convention: Convention


STATIONS: Mapping[str, tuple[Station, ...]] = {
    "train": (
        Station("Bergen", 60.4, 12, True, METRIC),
        Station("Lyon", 45.7, 197, False, METRIC),
        Station("Warsaw", 52.2, 106, False, METRIC),
        Station("Madrid", 40.4, 609, False, METRIC),
        Station("Innsbruck", 47.3, 581, False, METRIC),
        Station("Lisbon", 38.7, 77, True, METRIC),
        Station("Ottawa", 45.4, 114, False, METRIC),
        Station("Sapporo", 43.1, 26, True, METRIC),
        Station("Cordoba", -31.3, 474, False, METRIC),
        Station("Wellington", -41.3, 43, True, METRIC),
        Station("Leeds", 53.9, 64, False, BRITISH),
        Station("Cardiff", 51.4, 49, True, BRITISH),
        Station("Inverness", 57.5, 4, True, BRITISH),
        Station("Norwich", 52.6, 37, False, BRITISH),
        Station("Boston", 42.4, 6, True, AMERICAN),
        Station("Denver", 39.8, 1640, False, AMERICAN),
        Station("Fargo", 46.9, 274, False, AMERICAN),
        Station("Memphis", 35.1, 87, False, AMERICAN),
        Station("Savannah", 32.1, 14, True, AMERICAN),
        Station("Spokane", 47.6, 721, False, AMERICAN),
        Station("Tulsa", 36.2, 206, False, AMERICAN),
        Station("Albany", 42.7, 89, False, AMERICAN),
        Station("San Diego", 32.7, 9, True, AMERICAN),
        Station("Anchorage", 61.2, 40, True, AMERICAN),
        Station("Fair Isle", 59.5, 57, True, MARINE),
        Station("Heligoland", 54.2, 4, True, MARINE),
        Station("Ushant", 48.5, 61, True, MARINE),
        Station("Skagen", 57.7, 3, True, MARINE),
        Station("Sable Island", 43.9, 5, True, MARINE),
        Station("Lake Constance", 47.6, 395, False, MARINE),
    ),
    "val": (
        Station("Turku", 60.5, 47, True, METRIC),
        Station("Zaragoza", 41.7, 263, False, METRIC),
        Station("Winnipeg", 49.9, 239, False, METRIC),
        Station("Durham", 54.8, 102, False, BRITISH),
        Station("Omaha", 41.3, 299, False, AMERICAN),
        Station("Portland", 43.6, 22, True, AMERICAN),
        Station("Malin Head", 55.4, 20, True, MARINE),
    ),
    "test": (
        Station("Gdansk", 54.4, 138, True, METRIC),
        Station("Salzburg", 47.8, 430, False, METRIC),
        Station("Mendoza", -32.8, 704, False, METRIC),
        Station("Exeter", 50.7, 31, True, BRITISH),
        Station("Boise", 43.6, 874, False, AMERICAN),
        Station("Norfolk", 36.9, 9, True, AMERICAN),
        Station("Rockall Bank", 57.6, 10, True, MARINE),
    ),
}
"""The stations of each split."""
