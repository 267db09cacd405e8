"""What falls, and how surely, is read from forecast prose as a person reads it."""

import pytest

from trainable.weather.extract import precipitation


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Rain likely in the evening.", {"rain"}),
        ("Snow showers, then freezing rain.", {"snow", "ice"}),
        ("A chance of thunderstorms.", {"thunder"}),
        ("Showers and thunderstorms.", {"rain", "thunder"}),
        ("A chance of rain and snow showers.", {"rain", "snow"}),
        ("Light snow flurries.", {"snow"}),
        ("A wintry mix, then drizzle.", {"ice", "rain"}),
        ("Ice pellets or sleet.", {"ice"}),
        ("Rain or freezing drizzle.", {"rain", "ice"}),
        ("Snow. Chance of precipitation is 80%.", {"snow"}),
        ("Chance of precipitation is 80%.", set()),
        ("Rain changing to snow.", {"rain", "snow"}),
        ("No snow, but showers at night.", {"rain"}),
        ("No snow, showers at night.", {"rain"}),
        ("Rain ending, then snow.", {"snow"}),
        ("Dry at first, rain later.", {"rain"}),
        ("No wind and rain.", {"rain"}),
        ("Snow likely. Little or no snow accumulation expected.", {"snow"}),
        ("Rain. Snow level 500 feet.", {"rain"}),
        ("Rain tonight, but not snow.", {"rain"}),
        ("Rain tapering to drizzle.", {"rain"}),
        ("Sleet likely. Rainfall near 1 inch.", {"ice"}),
        ("Heavy rainfall.", {"rain"}),
        # It falls until then.
        ("Rain ending by noon.", {"rain"}),
        ("The rain will end by evening.", {"rain"}),
    ],
)
def test_kinds(text: str, kinds: set[str]) -> None:
    found = precipitation(text)
    assert found is not None
    assert found.wet
    assert found.kinds == kinds


@pytest.mark.parametrize(
    "text",
    [
        "Sunny and dry.",
        "No rain expected.",
        "No rain or snow.",
        "No rain, snow or sleet.",
        "No freezing rain.",
        "Cloudy without precipitation.",
        "No significant precipitation is expected.",
        "No chance of rain.",
        "Little or no rain.",
        "Rain ending.",
        "Rain and snow ending.",
        "Showers tapering off.",
        "Rain is unlikely.",
        "Rain is not expected.",
        "It won't rain.",
        "The rain has ended.",
        "0% chance of rain.",
        "A 0 percent chance of rain.",
        "Zero chance of rain.",
        "Chance of precipitation 0%.",
    ],
)
def test_dry(text: str) -> None:
    found = precipitation(text)
    assert found is not None
    assert not found.wet
    assert (found.kinds, found.chance) == (frozenset(), 0)


@pytest.mark.parametrize("text", ["", "Cloudy.", "Humidity 80%.", "Snow level 500 feet.", "Freezing fog."])
def test_nothing_said(text: str) -> None:
    assert precipitation(text) is None


@pytest.mark.parametrize(
    ("text", "chance"),
    [
        ("A 30 percent chance of showers.", 30),
        ("Snow likely. Chance of precipitation is 60%.", 60),
        ("Cloudy with rain likely in the afternoon (70%), about 4 mm.", 70),
        ("Rain, 20-40%.", 30),
        ("Humidity 90%. Rain, 20%.", 20),
        ("Increasing cloud with rain likely (70%).", 70),
        ("A 60 percent chance of rain, 30 percent of snow.", 60),
        ("Scattered flurries.", 10),
        ("A slight chance of rain.", 20),
        ("Isolated showers.", 20),
        ("A chance of rain.", 40),
        ("Scattered showers.", 40),
        ("Rain likely.", 65),
        ("Rain.", 90),
        ("A slight chance of showers, then rain likely.", 65),
        ("Rain and possibly a thunderstorm.", 90),
    ],
)
def test_chance(text: str, chance: float) -> None:
    found = precipitation(text)
    assert found is not None
    assert found.chance == chance
