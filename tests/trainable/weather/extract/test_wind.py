"""Wind is read from forecast prose as a person reads it, gusts apart."""

import pytest

from trainable.weather.extract import Unit, speed_unit, wind

MPH = 1.609344


@pytest.mark.parametrize(
    ("text", "speed"),
    [
        ("North wind 10 mph.", 10 * MPH),
        ("Winds 5 to 15 km/h.", 10),
        ("Winds of 5-15 kph", 10),
        ("Wind 5 km/h to 15 km/h.", 10),
        ("West wind 20 kt.", 20 * 1.852),
        ("Southwest 12 to 18 knots, then west.", 15 * 1.852),
        ("Wind 5 m/s.", 18),
        ("Wind 5 metres per second.", 18),
        ("Winds near 10 miles per hour.", 10 * MPH),
        ("East wind between 9 and 13 mph.", 11 * MPH),
        ("Breezy, with a west wind between 16 and 20 mph.", 18 * MPH),
        ("10 to 20 km/h winds.", 15),
        ("Wind less than 8 km/h.", 4),
        ("Light wind up to 8 km/h.", 4),
        ("Variable 8 km/h or less.", 4),
        ("Wind 10 mph (16 km/h).", 10 * MPH),
        ("Wind 10 to 20.", 15),
        ("Gusty winds 10 to 20 km/h.", 15),
        ("Wind 270 degrees at 10 km/h.", 10),
        ("High of 12 and 20 km/h winds.", 20),
    ],
)
def test_sustained_wind(text: str, speed: float) -> None:
    found = wind(text)
    assert (found.speed, found.gust) == (pytest.approx(speed), None)
    assert len(found.phases) == 1


@pytest.mark.parametrize(
    ("text", "speed"),
    [
        ("Calm.", 0),
        ("Calm wind.", 0),
        ("No wind.", 0),
        ("Light winds.", 2.5 * MPH),
        ("Light and variable wind.", 2.5 * MPH),
        ("Light south southwest wind.", 2.5 * MPH),
        ("Winds light.", 2.5 * MPH),
        ("Breezy.", 20 * MPH),
        ("Windy and cold.", 25 * MPH),
    ],
)
def test_wind_in_words(text: str, speed: float) -> None:
    assert wind(text).speed == pytest.approx(speed)


@pytest.mark.parametrize(
    ("text", "phases"),
    [
        ("South wind 5 to 10 km/h increasing to 15.", [7.5, 15]),
        ("West wind 12 to 14 km/h increasing to between 20 and 30 km/h.", [13, 25]),
        ("Calm wind becoming south around 6 km/h.", [0, 6]),
        ("West wind around 5 km/h becoming calm.", [5, 0]),
        ("West wind 10 km/h becoming light this evening.", [10, 2.5 * MPH]),
        ("Light wind becoming east between 5 and 9 km/h.", [2.5 * MPH, 7]),
        ("s-ssw 12-16 freshening 22-26 by mid evening", [14, 24]),
        ("sse-se 30-34 gusts 42 increasing 36-40 gusts 50 by evening", [32, 38]),
        ("s'ly 14-18 gradually backing/easing se 08-12 by evening", [16, 10]),
    ],
)
def test_wind_that_changes(text: str, phases: list[float]) -> None:
    found = wind(text)
    assert [span.middle for span in found.phases] == pytest.approx(phases)
    assert found.speed == pytest.approx(sum(phases) / len(phases))


@pytest.mark.parametrize(
    ("text", "speed", "gust"),
    [
        ("Winds 5 to 15 km/h, gusting to 40.", 10, 40),
        ("West wind 20 km/h with gusts up to 35 km/h.", 20, 35),
        ("South wind 15 km/h, with gusts as high as 30 km/h.", 15, 30),
        ("South wind 15 km/h. Winds could gust as high as 30 km/h.", 15, 30),
        ("Wind 15 km/h with 40 km/h gusts.", 15, 40),
        ("Gusts of 40 to 50 km/h.", None, 45),
        ("Wind 10 km/h, gusts increasing to 40 km/h.", 10, 40),
        ("Wind 10G20 km/h.", 10, 20),
        ("Southwest 12 to 18 km/h, then west, gusts 29.", 15, 29),
        ("sse 32-38 gusts 48 veering s 28-32 gusts 40 this evening", 32.5, 48),
        ("nne 06-10 risk gusts to 30 in any thunderstorm", 8, 30),
    ],
)
def test_gusts_apart_from_sustained_wind(text: str, speed: float | None, gust: float) -> None:
    found = wind(text)
    assert (found.speed, found.gust) == (pytest.approx(speed), gust)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "High near 45.",
        "Light rain, 12°C.",
        "Calm seas.",
        "Wind chill -10.",
        "Some storms could produce damaging winds after 3pm.",
        "Highs 45 north to 50 south.",
        "Visibility 10 km.",
    ],
)
def test_what_is_no_wind(text: str) -> None:
    found = wind(text)
    assert (found.speed, found.gust) == (None, None)


def test_the_unit_of_bare_speeds() -> None:
    assert speed_unit("Southwest 12 to 18 kt, gusts 29.") is Unit.KNOT
    assert speed_unit("Breezy, gusts 29.") is None
    assert wind("sw 10-14 gusts 20", Unit.KNOT).gust == pytest.approx(20 * 1.852)
    assert wind("Wind 10 mph, gusts 20.", Unit.KNOT).gust == pytest.approx(20 * MPH)
