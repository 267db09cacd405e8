import re
from collections import Counter

import pytest

from trainable.weather.prose import write_prose


def sentences(pattern: str) -> list[tuple[str, ...]]:
    found = re.findall(pattern, " ".join(write_prose(4000, seed=3)), re.IGNORECASE)
    assert len(found) > 20, "the prose has no such sentence any more"
    return found


def test_a_seed_makes_its_prose() -> None:
    assert write_prose(50, seed=1) == write_prose(50, seed=1)
    assert write_prose(50, seed=1) != write_prose(50, seed=2)


@pytest.mark.parametrize("count", [0, 1, 7, 400])
def test_as_many_sentences_as_asked_for(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainable.weather.prose._sentence", lambda *_: "One.")
    paragraphs = write_prose(count, seed=0)
    assert sum(len(paragraph.split()) for paragraph in paragraphs) == count
    assert all(1 <= len(paragraph.split()) <= 4 for paragraph in paragraphs)


def test_every_place_is_filled_and_every_sentence_begins_with_a_capital() -> None:
    for paragraph in write_prose(2000, seed=0):
        assert not re.search(r"[{}|\[\]]", paragraph)
        assert paragraph[0].isupper()
        assert paragraph.endswith(".")


def test_high_and_low_are_those_of_the_readings() -> None:
    for *readings, low, high in sentences(
        r"temperatures (-?\d+) (-?\d+) (-?\d+) (-?\d+)°[CF]?. So it went from (-?\d+) to (-?\d+)"
    ):
        assert (int(low), int(high)) == (min(map(int, readings)), max(map(int, readings)))


def test_the_barometer_moves_as_it_is_said_to() -> None:
    for before, after, moved in sentences(
        r"stood at (\d+) hPa, then (\d+) hPa [\w ]+: the pressure was (\w+)"
    ):
        assert moved == ("rising" if int(after) > int(before) else "falling")


def test_the_winds_range_is_that_of_the_readings() -> None:
    for *speeds, low, high in sentences(r"was (\d+) (\d+) (\d+) (\d+) \S+, that is (\d+) to (\d+)"):
        assert (int(low), int(high)) == (min(map(int, speeds)), max(map(int, speeds)))


def test_an_abbreviation_has_one_name() -> None:
    names = set(sentences(r"out of the (\w+) \(([NESW]{1,2})\)"))
    assert len(names) == 8
    assert {("north", "N"), ("southeast", "SE"), ("west", "W")} <= names


def test_gusts_are_above_the_wind_they_belong_to() -> None:
    for wind, gust in sentences(r"\d+ to (\d+) \S+, with gusts as high as (\d+)"):
        assert int(gust) > int(wind)


def test_the_sky_is_as_its_cover() -> None:
    for sky, eighths in sentences(r"a ([\w ]+) sky over [\w ]+, (\d) eighths"):
        assert (sky in ("clear", "sunny")) == (int(eighths) < 2)
        assert (sky in ("cloudy", "overcast")) == (int(eighths) > 6)


def test_months_are_of_their_season() -> None:
    months = "December January February March April May June July August September October November".split()
    for season, month in sentences(r"in the (\w+) of \d+, (\w+) was"):
        assert ["winter", "spring", "summer", "autumn"][months.index(month) // 3] == season


def test_the_sentences_of_a_paragraph_are_about_the_same_facts() -> None:
    paragraphs = [
        text for text in write_prose(20_000, seed=0) if "temperatures " in text and "Highs around" in text
    ]
    assert len(paragraphs) > 5
    for paragraph in paragraphs:
        readings = re.search(r"temperatures (-?\d+) (-?\d+) (-?\d+) (-?\d+)", paragraph)
        high = re.search(r"Highs around (-?\d+)", paragraph)
        assert int(high[1]) == max(map(int, readings.groups()))


def test_nothing_is_in_the_form_of_the_task() -> None:
    paragraphs = write_prose(2000, seed=0)
    assert not any("\n" in paragraph for paragraph in paragraphs)
    assert not any(
        re.match(r"\w+( \S+)?: ", paragraph) and paragraph.count(": ") > 3 for paragraph in paragraphs
    )


def test_no_template_drowns_the_others() -> None:
    openings = Counter(" ".join(paragraph.split()[:2]) for paragraph in write_prose(4000, seed=0))
    assert openings.most_common(1)[0][1] < 0.15 * sum(openings.values())
