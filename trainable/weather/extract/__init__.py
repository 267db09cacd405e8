"""Reads quantities from forecast prose: temperatures in °C, wind in km/h, what falls and how surely.

`tokens` cuts a text into tokens, `spans` reads the numbers among them, `quantities` finds what each is said
of, and one module a quantity turns these readings into what is scored. The vocabulary is that of the public
and marine forecasts of the United States' National Weather Service and of its like elsewhere.
"""

from trainable.weather.extract.precipitation import Precipitation, precipitation
from trainable.weather.extract.quantities import KMH
from trainable.weather.extract.spans import Span
from trainable.weather.extract.temperature import Temperatures, temperature_unit, temperatures
from trainable.weather.extract.tokens import Unit
from trainable.weather.extract.wind import Wind, speed_unit, wind

__all__ = [
    "KMH",
    "Precipitation",
    "Span",
    "Temperatures",
    "Unit",
    "Wind",
    "precipitation",
    "speed_unit",
    "temperature_unit",
    "temperatures",
    "wind",
]
