"""Quantities are read from forecast prose as a person reads them."""

import pytest

from trainable.evaluation.extract import precipitation, temperatures, wind


@pytest.mark.parametrize(
    ("text", "high", "low"),
    [
        ("Sunny, with a high near 77, low around 54. Northwest wind 6 to 11 mph.", 25.0, 12.2),
        ("High 9°C, low 2°C.", 9, 2),
        ("High −5°C, low minus 12°C.", -5, -12),
        ("High 3°C. Low 5 below zero.", 3, -5),
        ("Lows in the mid 30s. South wind around 10 mph.", None, (35 - 32) / 1.8),
        ("Highs in the lower 50s and lows in the upper 30s. Wind 5 mph.", (52 - 32) / 1.8, (37.5 - 32) / 1.8),
        ("Temperatures from -6 to -4°C.", -4, -6),
        ("Highs 20 to 25°C.", 22.5, None),
        ("Highs 15-25°F.", (20 - 32) / 1.8, None),
        ("Rain before 10am. UV index 8. Wind chill minus 23. High near 41. Wind 5 mph.", 5, None),
        ("Chance of rain 30 percent. Low 12°C.", None, 12),
        ("Nothing is said of it.", None, None),
        ("", None, None),
    ],
)
def test_temperatures(text: str, high: float | None, low: float | None) -> None:
    found = temperatures(text)
    assert (found.high, found.low) == (pytest.approx(high, abs=0.06), pytest.approx(low, abs=0.06))


@pytest.mark.parametrize(
    ("text", "sustained", "gust"),
    [
        ("North wind 10 mph.", 16.09, None),
        ("Winds 5 to 15 km/h, gusting to 40.", 10, 40),
        ("West wind 20 kt with gusts up to 35 kt.", 37.04, 64.82),
        ("Wind 5 m/s.", 18, None),
        ("Calm wind.", 0, None),
        ("Light winds.", 4.02, None),
        ("South wind 5 to 10 mph increasing to 15 mph.", (7.5 + 15) / 2 * 1.609344, None),
        ("High near 45.", None, None),
    ],
)
def test_wind(text: str, sustained: float | None, gust: float | None) -> None:
    found = wind(text)
    assert found == (pytest.approx(sustained, abs=0.01), pytest.approx(gust, abs=0.01))


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Rain likely in the evening.", {"rain"}),
        ("Snow showers, then freezing rain.", {"rain", "snow", "ice"}),
        ("A chance of thunderstorms.", {"thunder"}),
        ("Sunny and dry.", set()),
        ("No rain expected.", set()),
        ("Cloudy without precipitation.", set()),
        ("Rain ending by noon.", set()),
        ("No snow, but showers at night.", {"rain"}),
        ("Cloudy.", None),
    ],
)
def test_precipitation(text: str, kinds: set[str] | None) -> None:
    assert precipitation(text) == (None if kinds is None else frozenset(kinds))
