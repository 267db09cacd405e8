"""General weather prose for the small base model to learn language from.

Diaries, almanacs, encyclopaedia entries, news, station histories, school talks and marine notes, put
together from a grammar. A paragraph is written about one set of facts, and its sentences take them up in
turn (four readings, then their highest; a wind's abbreviation, then its name), as people do who write about
measurements; so a model of it learns to look back for what it says. None of it is in the form of the
fine-tuning task, observations in and a forecast out. Deterministic in its seed.

In a template, `{name}` is a fact and `[this|that]` a choice.
"""

import random
import re

_WORDS: dict[str, tuple[str, ...]] = {
    "place": tuple(
        "Ambleford Barrow Copley Dunsany Eskdale Fairlight Glenmore Holt Ilkley Kelso Lyndon Morven Norwood "
        "Oban Penrith Rye Selby Tarbert Ullapool Ventnor Whitby Yarrow Ashdown Bexley Clifton Dalton".split()
    ),
    "region": ("the coast", "the valley", "the hills", "the plains", "the islands", "the lakes", "the delta",
               "the foothills", "the uplands", "the interior", "the shore", "the moors", "the pass"),
    "day": tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()),
    "part": ("morning", "afternoon", "evening", "night", "day"),
    "when": ("in the morning", "around midday", "in the evening", "overnight", "before dawn", "after dark",
             "from the afternoon on", "until the morning", "in the early morning", "from the late evening on",
             "mainly before noon", "after 4pm", "before 10am", "in the afternoon", "until the evening"),
    "precip": ("rain", "snow", "sleet", "thunderstorms", "showers", "drizzle", "hail", "freezing rain"),
    "person": ("the keeper", "my grandfather", "the observer", "the captain", "a farmer", "our neighbour",
               "the postmistress", "the harbour master", "the schoolteacher", "the pilot"),
    "thing": ("the barometer", "the glass", "the old instrument", "the needle"),
    "speed": ("km/h", "mph", "kt", "knots"),
    "deg": ("°C", "°F", "°"),
}  # fmt: skip

_SEASONS = {
    "winter": ("December", "January", "February"),
    "spring": ("March", "April", "May"),
    "summer": ("June", "July", "August"),
    "autumn": ("September", "October", "November"),
}

_SKIES = (
    ("clear", "sunny"),
    ("mostly sunny", "mostly clear"),
    ("partly cloudy", "partly sunny"),
    ("mostly cloudy",),
    ("cloudy", "overcast"),
)
"""Words for a sky by its cloud cover, in fifths."""

_FEELINGS = ("freezing", "cold", "cool", "mild", "warm", "hot")

_WINDS = {
    "N": "north", "NE": "northeast", "E": "east", "SE": "southeast",
    "S": "south", "SW": "southwest", "W": "west", "NW": "northwest",
}  # fmt: skip

_TEMPLATES = (
    # Temperature
    "{person} read the thermometer four times [that day|on {day}|in {place}], {a} {b} {c} {d} {deg}; the high was {max}{deg}, the low {min}{deg}.",
    "In the [log|book|diary] of {place} stands: temperatures {a} {b} {c} {d}{deg}. So it went from {min} to {max}{deg}.",
    "On {day} the mercury at {place} showed {a}, {b}, {c} and {d}. {person} underlined the high, {max}, and the low, {min}.",
    "It was {a}{deg} at dawn and {d} at dusk [near {place}|over {region}], with a high near {max} and a low around {min}.",
    "[A|It was a|They remember a] {feeling} {part}, {sky}[| with {precip}]. High {max}{deg}.",
    "[A|What a|It was a] {feeling} {part}, {sky}[|, with {precip} {when}]. Low {min}{deg}.",
    "Temperature near {a}{deg} throughout, wrote {person}, [and hardly a change|a {feeling} {part}].",
    "Temperature [rising|falling] to around {d}, and {sky} [skies|at last].",
    "The highest temperature of {place} is {max} degrees, the lowest {min} degrees[|; {month} is {feeling}].",
    "Highs around {max}{deg} and lows near {min}{deg} are [common|rare|no news] in {month}.",
    "Minus {low} degrees on {day}, that is {low} below zero, [a {feeling} {part}|too cold for {precip}].",
    "Max {max}{deg}, min {min}{deg}: {person} writes [nothing else|it like this every {part}].",
    # Wind
    "The wind over {region} was {w1} {w2} {w3} {w4} {speed}, that is {wmin} to {wmax} {speed} from the {wind}.",
    "The vane pointed {abbr}, a {wind} wind of {wmin} to {wmax} {speed}[|, gusting to {g} {speed}| {when}].",
    "[Winds|A breeze] out of the {wind} ({abbr}) blew at {wmin} to {wmax} {speed}, with gusts as high as {g} {speed}.",
    "{abbr} means {wind}, said {person}; [a {wind} wind of {w1} {speed} is light|{abbr2} means {wind2}].",
    "{wind} wind {wmin} to {wmax} {speed}, becoming {wind2}[|, gusting to {g}].",
    "{wind} {wmin} to {wmax} {speed}, then {wind2}[|, gusts {g}], said the [radio|coast guard|bulletin for shipping].",
    "At noon it blew {abbr}{w1}, later {abbr2}{w2}: [{wind} at first|the {wind} wind went], then {wind2}.",
    "[Breezy|Windy|Blustery], {wind} wind {wmin} to {wmax} {speed}[|, gusts to {g} {speed}].",
    "Light wind up to {wmax} {speed}, [{sky} and {feeling}|good for sailing|nothing to fear].",
    "[Calm wind|The wind was calm] [over {region}|on {day}|{when}], and {sky} it stayed.",
    "[Seas|Waves] rose as the {wind} wind {w1} {speed} became {wind2} and gusted to {g}.",
    # Sky
    "A {sky} sky over {region}, {oktas} eighths or {pct}% covered[|, often means {precip} {when}].",
    "With {pct}% cloud the {part} was {sky}[|; we call it {sky}|, a {feeling} {part}].",
    "[Increasing cloud|Cloud increasing], from {o1} to {o2} eighths, [told of {precip}|came {when}|{when}].",
    "[Clearing|Becoming {sky}|Cloud breaking up] {when}, with a [high|low] near {b}.",
    "{sky}, with a high near {max}. [It was {month}|{feeling} for {month}|{wind} wind].",
    "{sky}, with a low around {min}. [It was {month}|{feeling} for {month}|{wind} wind].",
    "{sky} with {precip} {when} ({chance}%), about {mm} mm.",
    # Precipitation
    "{person} thought {precip} likely {when}, the chance being {chance}%, and {mm} mm came down in {place}.",
    "There was a [slight chance|chance] of {precip} {when} ({chance}%), [and the {part} stayed {sky}|about {mm} mm].",
    "A chance of {precip} of {chance} percent was given, and {mm} mm fell.",
    "[No precipitation|Nothing] was expected in {month}, and {region} stayed dry; {sky} {part}s.",
    "Chance of precipitation {chance}%. [Rainfall|Snowfall] near {inch} [inches|in].",
    "{precip} {when}. {sky}. {person} [smiled|went home|shut the door].",
    "{precip}, {chance}% {when}, {mm} mm in all, about {inch} inches.",
    "{precip}, mainly {when}, and a {wind} wind: [so it is in {month}|{region} knows it].",
    "News from {place}: {precip} closed the road to {region} after {mm} mm fell {when}.",
    "The chances of {precip} were {chance} {chance2} {chance3}%, [most of it|the peak] {when}.",
    "{precip} likely {when} ({chance}%), about {cm} cm, [a {feeling} {part}|with {sky} spells].",
    "Dry and {sky}: [no {precip}|a {feeling} {part}|the hay came in].",
    # Pressure and humidity
    "{thing} stood at {p1} hPa, then {p2} hPa {when}: the pressure was {moved}, and {person} looked at {region}.",
    "Pressure {p2}, {moved}[| quickly| slowly]. [It had been {p1}|{p1} before that].",
    "A pressure {moved} from {p1} to {p2} hPa brought {precip} to {place}, {mm} mm in all.",
    "Humidity was {h1} percent at first and {h2} later, so that {place} felt [damp|dry|close] and {feeling}.",
    # Almanac
    "In the {season} of {year}, {month} was {feeling}, with {precip} over {region} and {sky} spells {when}.",
    "If {thing} is {moved} while the wind is {wind}, {person} used to say, expect {precip} {when}.",
    "[On {month} {date}|{day}, {month} {date}], {place}: {sky}, {wind} wind, {a}{deg}.",
    "{place} has {feeling} {season}s; {month} brings {precip}, and the wind is mostly {wind}.",
)  # fmt: skip

_CHOICE = re.compile(r"\[([^\[\]]*)\]")


def write_prose(sentences: int, seed: int) -> list[str]:
    """Return paragraphs of one to four templates' sentences, `sentences` templates in all."""
    rng = random.Random(seed)
    paragraphs: list[str] = []
    left = sentences
    while left > 0:
        count = min(left, rng.randint(1, 4))
        facts = _facts(rng)
        told = (_sentence(template, facts, rng) for template in rng.sample(_TEMPLATES, count))
        paragraphs.append(" ".join(told))
        left -= count
    return paragraphs


def _sentence(template: str, facts: dict[str, object], rng: random.Random) -> str:
    chosen = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template)
    text = chosen.format_map(facts)
    return re.sub(r"(^|[.] )([a-z])", lambda match: match[1] + match[2].upper(), text)


def _facts(rng: random.Random) -> dict[str, object]:
    """Return what a paragraph is about; the facts agree with each other."""
    cloud = rng.randint(0, 8)
    pressures = rng.sample(range(980, 1039), 2)
    season = rng.choice(list(_SEASONS))
    return {
        **{name: rng.choice(words) for name, words in _WORDS.items()},
        **_temperatures(rng),
        **_winds(rng),
        "oktas": cloud,
        "pct": round(100 * cloud / 8),
        "sky": rng.choice(_SKIES[min(5 * cloud // 8, 4)]),
        **dict(zip(("o1", "o2"), sorted(rng.sample(range(9), 2)), strict=True)),
        **{name: rng.randrange(10, 101, 10) for name in ("chance", "chance2", "chance3")},
        "mm": rng.choice((rng.randint(1, 30), round(rng.uniform(0.1, 9.9), 1))),
        "inch": round(rng.uniform(0.1, 2), 1),
        "cm": rng.randint(1, 20),
        "p1": pressures[0],
        "p2": pressures[1],
        "moved": "rising" if pressures[1] > pressures[0] else "falling",
        "h1": rng.randint(20, 100),
        "h2": rng.randint(20, 100),
        "season": season,
        "month": rng.choice(_SEASONS[season]),
        "date": rng.randint(1, 28),
        "year": rng.randint(1850, 2020),
    }


def _temperatures(rng: random.Random) -> dict[str, object]:
    middle = rng.randint(-12, 85)
    spread = rng.choice((2, 5, 9))
    readings = [middle + rng.randint(-spread, spread) for _ in range(4)]
    return {
        **dict(zip("abcd", readings, strict=True)),
        "max": max(readings),
        "min": min(readings),
        "low": rng.randint(1, 30),
        "feeling": rng.choice(_FEELINGS),
    }


def _winds(rng: random.Random) -> dict[str, object]:
    strength = rng.choice((4, 12, 30))
    speeds = [rng.randint(strength // 4, strength) for _ in range(4)]
    first, second = rng.sample(list(_WINDS), 2)
    return {
        **{f"w{number}": speed for number, speed in enumerate(speeds, start=1)},
        "wmin": min(speeds),
        "wmax": max(speeds),
        "g": max(speeds) + rng.randint(5, 30),
        "abbr": first,
        "wind": _WINDS[first],
        "abbr2": second,
        "wind2": _WINDS[second],
    }
