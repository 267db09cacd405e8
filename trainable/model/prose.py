"""General weather prose for the small base model to learn language from.

Diaries, almanacs, encyclopaedia entries, news, station histories and marine notes, put together from a
grammar: running text with numbers, units and directions, in which a number is often taken up again (the
highest of four readings, a wind's abbreviation and its name), as people do who write about measurements.
None of it is in the form of the fine-tuning task, observations in and a forecast out. Deterministic in its
seed.
"""

import random
from collections.abc import Callable

_WORDS: dict[str, tuple[str, ...]] = {
    "place": tuple(
        "Ambleford Barrow Copley Dunsany Eskdale Fairlight Glenmore Holt Ilkley Kelso Lyndon Morven Norwood "
        "Oban Penrith Rye Selby Tarbert Ullapool Ventnor Whitby Yarrow Ashdown Bexley Clifton Dalton".split()
    ),
    "region": ("the coast", "the valley", "the hills", "the plains", "the islands", "the lakes", "the delta",
               "the foothills", "the uplands", "the interior", "the shore", "the moors", "the pass"),
    "month": tuple("January February March April May June July August September October November December".split()),
    "day": tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()),
    "short": tuple("Mon Tue Wed Thu Fri Sat Sun".split()),
    "season": ("winter", "spring", "summer", "autumn"),
    "part": ("morning", "afternoon", "evening", "night", "midday", "dawn"),
    "when": ("in the morning", "around midday", "in the evening", "overnight", "before dawn", "after dark"),
    "sky": ("sunny", "mostly sunny", "partly cloudy", "mostly cloudy", "cloudy", "clear", "overcast", "hazy"),
    "precip": ("rain", "snow", "sleet", "thunderstorms", "showers", "drizzle", "hail", "freezing rain"),
    "mood": ("calm", "quiet", "restless", "raw", "mild", "bitter", "gentle", "dry", "close", "fresh"),
    "moved": ("rising", "falling"),
    "thing": ("the barometer", "the thermometer", "the glass", "the old gauge", "the mercury"),
    "person": ("the keeper", "my grandfather", "the observer", "the captain", "a farmer", "our neighbour",
               "the postmistress", "the harbour master", "the schoolteacher", "the pilot"),
    "speed": ("km/h", "mph", "kt"),
    "deg": ("°C", "°F", "degrees"),
}  # fmt: skip

_WINDS = {
    "N": "north", "NE": "northeast", "E": "east", "SE": "southeast",
    "S": "south", "SW": "southwest", "W": "west", "NW": "northwest",
}  # fmt: skip

_TEMPLATES = (
    "{person} read the thermometer four times that day, {a} {b} {c} {d} {deg}; the high was {max}{deg}, the low {min}{deg}.",
    "In the log of {place} stands: temperatures {a} {b} {c} {d} {deg}. So it went from {min} to {max}{deg}.",
    "On {day} {thing} at {place} showed {a}, {b}, {c} and {d}. {person} underlined the high, {max}, and the low, {min}.",
    "It was {a} {deg} at dawn and {b} at noon near {place}, a high near {hi2} being expected, with lows around {lo2}.",
    "The wind over {region} was {w1} {w2} {w3} {w4} {speed} on {short} {date}, that is {wmin} to {wmax} {speed} from the {wind}.",
    "The vane pointed {abbr}, a {wind} wind of {w1} to {wmax2} {speed}, gusting to {g} {speed} {when}.",
    "Winds out of the {wind} ({abbr}) blew at {w1} {speed} over {region}, with gusts as high as {g} {speed}.",
    "{abbr} means {wind}, said {person}; a {wind} wind of {w1} {speed} is a {mood} one.",
    "A {sky} sky over {region}, {pct}% covered, often means {precip} {when}.",
    "With {pct}% cloud the {part} was {sky}; a chance of {precip} of {chance} percent was given, and {mm} mm fell.",
    "{precip} was likely {when}, {person} thought, the chance being {chance}%, and {mm} mm came down in {place}.",
    "There was a slight chance of {precip} {when}, no more than {chance} percent, and the {part} stayed {mood} and {sky}.",
    "No precipitation was expected in {month}, and {region} stayed dry; {sky} days, {mood} nights.",
    "{thing} stood at {p1} hPa, then {p2} hPa {when}: the pressure was {moved}, and {person} looked at {region}.",
    "A pressure {moved} from {p1} to {p2} hPa brought {precip} to {place}, {mm} mm in all.",
    "Humidity was {h1} percent at {part} and {h2} later, so that {place} felt {mood} and {sky}.",
    "{short} {date}: {precip} at {place}, {mm} mm, peak {when}. {person} wrote {mm} mm in the book.",
    "In the {season} of {year}, {month} was {mood}, with {precip} over {region} and {sky} spells {when}.",
    "The highest temperature of {place} is {max} {deg}, the lowest {min} {deg}; {month} is {mood}.",
    "The wind was calm over {region} on {day}, and {sky} it stayed, no gust above {w1} {speed}.",
    "Mostly it is {sky} there {when}, sometimes {precip}; hours 6 12 18 24 are when {person} goes out to look.",
    "If {thing} is {moved} while the wind is {wind}, {person} used to say, expect {precip} {when}.",
    "News from {place}: {precip} closed the road to {region} after {mm} mm fell {when}; cloud {pct} %.",
)  # fmt: skip


def write_prose(sentences: int, seed: int) -> list[str]:
    """Return paragraphs of one to four sentences, `sentences` sentences in all."""
    rng = random.Random(seed)
    paragraphs: list[str] = []
    left = sentences
    while left > 0:
        count = min(left, rng.randint(1, 4))
        paragraphs.append(" ".join(_sentence(rng) for _ in range(count)))
        left -= count
    return paragraphs


def _sentence(rng: random.Random) -> str:
    facts = _facts(rng)
    text = rng.choice(_TEMPLATES)
    for name in _WORDS:
        if f"{{{name}}}" in text:
            text = text.replace(f"{{{name}}}", rng.choice(_WORDS[name]))
    text = text.format_map(facts)
    return text[0].upper() + text[1:]


def _facts(rng: random.Random) -> dict[str, object]:
    """Numbers of one sentence that agree with each other."""
    middle = rng.randint(-12, 85)
    readings = [middle + rng.randint(-9, 9) for _ in range(4)]
    winds = [rng.randint(0, 12) + rng.choice((0, 0, 6, 15)) for _ in range(4)]
    abbreviation = rng.choice(list(_WINDS))
    chance: Callable[[], int] = lambda: rng.randrange(0, 101, 10)  # noqa: E731
    return {
        **dict(zip("abcd", readings, strict=True)),
        "max": max(readings),
        "min": min(readings),
        "hi2": max(readings[:2]),
        "lo2": min(readings[:2]),
        **{f"w{number}": speed for number, speed in enumerate(winds, start=1)},
        "wmax": max(winds),
        "wmin": min(winds),
        "wmax2": winds[0] + rng.randint(1, 9),
        "g": max(winds) + rng.randint(5, 30),
        "abbr": abbreviation,
        "wind": _WINDS[abbreviation],
        "pct": chance(),
        "chance": chance(),
        "mm": f"{rng.choice((rng.uniform(0, 3), rng.uniform(0, 25))):.2g}",
        "p1": rng.randint(980, 1038),
        "p2": rng.randint(980, 1038),
        "h1": rng.randint(20, 100),
        "h2": rng.randint(20, 100),
        "year": rng.randint(1850, 2020),
        "date": f"{rng.randint(1990, 2024)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}",
    }
