"""Temperatures are read from forecast prose as a person reads them."""

import pytest

from trainable.weather.extract import Unit, temperature_unit, temperatures


def celsius(fahrenheit: float) -> float:
    return (fahrenheit - 32) / 1.8


@pytest.mark.parametrize(
    ("text", "high", "low"),
    [
        ("Sunny, with a high near 77, low around 54. Northwest wind 6 to 11 mph.", celsius(77), celsius(54)),
        ("Sunny , with a high near 53 . Calm wind becoming south around 6 mph .", celsius(53), None),
        ("High 9°C, low 2°C.", 9, 2),
        ("HIGH 9 C, LOW 2 C", 9, 2),
        ("High of 68 degrees Fahrenheit, low of 50 degrees Fahrenheit.", 20, 10),
        ("High 68f. Low 50F.", 20, 10),
        ("Max 21°C.", 21, None),
        ("Min. minus 4°C.", None, -4),
        ("Maximum temperature 21 degrees Celsius, minimum temperature 11.", 21, 11),
        ("A high temperature of 21 °C and an overnight low of 11 °C.", 21, 11),
        ("Highs around 12 and lows near 4 with wind of 10 km/h.", 12, 4),
        ("High: 20 °C\nLow: 10 °C", 20, 10),
        ("Daytime highs 20, with 15 km/h winds. Nighttime lows 8.", 20, 8),
        ("Minimum nighttime temperature: 9°C", None, 9),
        ("High near 12, cooler inland. Low 5.", 12, 5),
        ("High 50°F (10°C), low 41°F / 5°C.", 10, 5),
    ],
)
def test_highs_and_lows_apart(text: str, high: float | None, low: float | None) -> None:
    found = temperatures(text)
    assert (found.high, found.low) == (pytest.approx(high), pytest.approx(low))
    assert found.other == ()


@pytest.mark.parametrize(
    ("text", "low"),
    [
        ("Low -5°C.", -5),
        ("Low −5 °C.", -5),
        ("Low –5°C.", -5),
        ("Low minus 12°C.", -12),
        ("Low 5 below zero.", -5),
        ("Low 5°C below zero.", -5),
        ("Lows around 5 below.", -5),
        ("Lows 5 to 10 below zero.", -7.5),
        ("Lows 5 below to 5 above zero.", 0),
        ("Lows zero to 5 below.", -2.5),
        ("Low near zero.", 0),
        ("Lows -6 to -4.", -5),
        ("Lows -6 - -4.", -5),
        ("Lows -2-4°C.", 1),
        ("Lows minus 5 to plus 3.", -1),
        ("Lows in the minus 20s.", -24.5),
        ("Lows in the mid teens below zero.", -15),
        ("Lows in the single digits below zero.", -4.5),
    ],
)
def test_below_zero(text: str, low: float) -> None:
    assert temperatures(text).low == pytest.approx(low)


@pytest.mark.parametrize(
    ("words", "fahrenheit"),
    [
        ("near 45", 45),
        ("around 12", 12),
        ("as low as 40", 40),
        ("20 to 25", 22.5),
        ("15-25", 20),
        ("15–25°F", 20),
        ("15°-25°", 20),
        ("between 20 and 24", 22),
        ("from near 20 to around 24", 22),
        ("in the lower 50s", 52),
        ("in the low 50s", 52),
        ("in the mid 30s", 35),
        ("in the mid-30s F", 35),
        ("in the middle 70's", 75),
        ("in the upper 30s", 37.5),
        ("in the 40s", 44.5),
        ("in the low to mid 60s", 63.5),
        ("in the mid to upper 30s", 36),
        ("in the upper 30s to lower 40s", 40),
        ("in the teens", 14.5),
        ("in the single digits", 4.5),
        ("in the forties", 44.5),
        ("in the 40s and 50s", 49.5),
    ],
)
@pytest.mark.parametrize("level", ["High", "Lows"])
def test_spans_stand_for_their_middle(level: str, words: str, fahrenheit: float) -> None:
    found = temperatures(f"{level} {words}. South wind around 10 mph.")
    expected = pytest.approx(celsius(fahrenheit))
    assert (found.low if level == "Lows" else found.high) == expected
    assert (found.high if level == "Lows" else found.low) is None


@pytest.mark.parametrize(
    ("text", "high", "low", "other"),
    [
        ("Temperatures from -6 to -4°C.", -4, -6, []),
        ("Temperature falling from 12 to 5°C.", 12, 5, []),
        ("Between 15 and 25°C.", 25, 15, []),
        ("Temperature near 7°C throughout.", None, None, [7]),
        ("Temperatures in the mid 30s.", None, None, [35]),
        ("Cloudy, 12°C at noon.", None, None, [12]),
        ("Temperature rising to near 46°C by 9am, then falling to around 40 later.", None, None, [46, 40]),
        ("Saturday: high 20°C. Sunday: high 25°C.", 20, None, [25]),
    ],
)
def test_what_is_neither_high_nor_low(
    text: str, high: float | None, low: float | None, other: list[float]
) -> None:
    found = temperatures(text)
    assert (found.high, found.low, list(found.other)) == (high, low, other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Nothing is said of it.",
        "Rain before 10am, mainly after 3 p.m. and by 10:30.",
        "UV index 8.",
        "Wind chill minus 23.",
        "Wind chill values as low as -15°F.",
        "Wind chill values between zero and 10 early.",
        "Heat index near 105°F.",
        "Feels like 30°C.",
        "It will feel like 30°C.",
        "Dew point 12°C.",
        "Chance of rain 30 percent.",
        "Humidity 80%.",
        "High pressure of 1030 hPa.",
        "High clouds, 12 km up.",
        "High chance of rain: 80.",
        "Low visibility, 500 m.",
        "High winds of 60 km/h, gusts as high as 90.",
        "Wind 270 degrees at 10 kt.",
        "Snow level 500 feet lowering to 300.",
        "New snow accumulation of 1 to 3 inches.",
        "5 degrees above normal.",
        "Temperatures 5 to 10 degrees cooler than yesterday.",
        "Water temperature 15°C.",
        "High on March 12.",
        "Pressure 1,013, falling.",
    ],
)
def test_what_is_no_temperature(text: str) -> None:
    found = temperatures(text)
    assert (found.high, found.low, found.other) == (None, None, ())


@pytest.mark.parametrize(
    ("text", "high"),
    [
        ("Rain before 10am. UV index 8. Wind chill minus 23. High near 41. Wind 5 mph.", 5),
        ("Humidity 80%, pressure 1,013 hPa, visibility 10 km, high 12°C.", 12),
        ("A 30 percent chance of rain, with gusts as high as 30 km/h and a high near 12.", 12),
        ("High near 12, 5 degrees above normal, 60% chance of rain.", 12),
        ("High of 12 and 20 km/h winds.", 12),
    ],
)
def test_a_temperature_among_other_numbers(text: str, high: float) -> None:
    found = temperatures(text)
    assert (found.high, found.low, found.other) == (pytest.approx(high), None, ())


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("High 50°F.", Unit.FAHRENHEIT),
        ("High 10. Wind 10 mph.", Unit.FAHRENHEIT),
        ("High 10°C. Wind 10 mph.", Unit.CELSIUS),
        ("High 10. Wind 10 kt.", Unit.CELSIUS),
        ("High 10. Wind 10 mph. 4 mm of rain.", Unit.CELSIUS),
        ("High 30. Snow accumulation of 2 inches.", Unit.FAHRENHEIT),
        ("High 70. Calm wind.", Unit.FAHRENHEIT),
        ("High 10. Calm wind.", None),
    ],
)
def test_the_unit_of_bare_numbers(text: str, unit: Unit | None) -> None:
    assert temperature_unit(text) == unit


def test_the_default_holds_only_where_nothing_tells() -> None:
    assert temperatures("High near 50.", Unit.FAHRENHEIT).high == pytest.approx(10)
    assert temperatures("High near 50. Wind 10 km/h.", Unit.FAHRENHEIT).high == 50
