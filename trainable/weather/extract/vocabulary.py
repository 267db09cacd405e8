"""The words of forecasts: what names a topic, what stands for a number, what denies.

Bands are those of the public forecasts of the United States' National Weather Service.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

Meaning = TypeVar("Meaning")


class Topic(StrEnum):
    """What a quantity is said of; `FELT` are temperatures of something else than the air."""

    HIGH = "high"
    LOW = "low"
    TEMPERATURE = "temperature"
    FELT = "felt"
    WIND = "wind"
    GUST = "gust"
    CHANCE = "chance"
    OTHER = "other"


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _by_word(words: Mapping[Meaning, str]) -> dict[str, Meaning]:
    return {word: meaning for meaning, several in words.items() for word in several.split()}


KINDS = _by_word(
    {
        "snow": "snow snows snowy snowing snowfall snowstorm snowstorms flurry flurries blizzard blizzards",
        "ice": "sleet hail",
        "thunder": "thunder thunderstorm thunderstorms thundershower thundershowers thundery storm storms",
        "rain": "rain rains rainy raining rainfall shower showers showery drizzle drizzly sprinkle sprinkles "
        "downpour downpours",
        "": "precipitation precip",
    }
)
"""Kinds of precipitation by the word that names them; `precipitation` names none."""
TOPICS = dict.fromkeys(KINDS, Topic.CHANCE) | _by_word(
    {
        Topic.HIGH: "high highs hi maximum maximums max warmest",
        Topic.LOW: "low lows lo minimum minimums min coldest",
        Topic.TEMPERATURE: "temperature temperatures temp temps",
        Topic.FELT: "chill chills index feel feels feeling apparent dew dewpoint dewpoints",
        Topic.WIND: "wind winds windy breeze breezes breezy blustery gusty variable",
        Topic.GUST: "gust gusts gusting",
        Topic.CHANCE: "chance chances probability pop risk",
        Topic.OTHER: "accumulation accumulations amount amounts rainfall snowfall humidity pressure "
        "barometer visibility visibilities level levels wave waves sea seas swell swells cloud clouds "
        "cover force",
    }
)
"""Topics by the word that names them."""
NOT_AIR = _set("water sea surface soil ground road lake")
"""Words before `temperature` that make it one of something else than the air."""
NAMES_NO_TEMPERATURE = _set(
    "pressure cloud clouds cloudiness overcast wind winds gust gusts chance chances humidity level levels "
    "tide tides water visibility elevation elevations terrain country ground confidence probability risk"
)
"""Words after `high` and `low` that these only qualify."""
NOT_A_LEVEL = _set("normal average seasonal freezing cooler warmer colder hotter than")
"""Words after degrees, or after `above` and `below`, that make a number a difference."""
FILLERS = _set("near around about approximately approx roughly the a in as between from of at plus")
"""Words before a number that change nothing."""
CHANGES = _set(
    "becoming increasing decreasing diminishing rising easing falling then veering backing freshening "
    "building subsiding turning shifting strengthening weakening slackening dropping setting later"
)
"""Words with which a new state of the wind begins."""
MONTHS = _set(
    "january february march april may june july august september october november december "
    "jan feb mar apr jun jul aug sep sept oct nov dec"
)
PARTS = {"low": (0, 4), "lower": (0, 4), "mid": (3, 7), "middle": (3, 7), "high": (6, 9), "upper": (6, 9)}
"""First and last digit of a part of a decade: the lower 50s are 50 to 54."""
WINDS = {
    "calm": (0, 0),
    "no": (0, 0),
    "light": (0, 5),
    "breezy": (15, 25),
    "blustery": (15, 25),
    "windy": (20, 30),
}
"""Wind speeds in mph by the word that stands for them."""

FROZEN = frozenset({("freezing", "rain"), ("freezing", "drizzle"), ("ice", "pellets"), ("wintry", "mix")})
"""Kinds of ice in two words."""
AMOUNTS = _set("rainfall snowfall accumulation accumulations")
"""Words that tell how much falls; what falls is told elsewhere, if anywhere."""
OTHER_WEATHER = _set("fog mist haze frost freezing icing")
"""What may be light besides wind and precipitation."""
ON_THE_GROUND = _set("level levels depth cover pack line surge gauge shadow")
"""Words after `snow` or `rain` with which nothing falls."""
DENIALS = _set("no without not nor never zero nil won't isn't aren't don't doesn't")
DENIED_THROUGH = _set(
    "a any much more further additional significant measurable appreciable heavy major real of chance "
    "chances risk threat sign signs possibility likelihood expecting expected probability percent % or and "
    "nor accumulation accumulations freezing ice pellets"
)
"""Words over which a denial reaches to what falls: `no measurable rain`."""
ENDINGS = _set("ending ends end tapering unlikely not")
AUXILIARIES = _set("is are was will be should")
"""Words between what falls and its ending."""
SURENESS = _by_word(
    {
        10.0: "flurry flurries sprinkle sprinkles",
        20.0: "slight isolated slim little",
        40.0: "chance chances scattered possible possibly",
        65.0: "likely numerous",
    }
)
"""Chances in percent by the word that gives them."""
SURE = 90.0
"""The chance in percent of what is told without such a word."""


def direction(word: str) -> bool:
    """Whether a word tells where the wind comes from: `north`, `nnw`, `westerly`, `s'ly`."""
    for ending in ("'ly", "erly", "erlies"):
        word = word.removesuffix(ending)
    return word in _DIRECTIONS


_DIRECTIONS = _set(
    "north northeast east southeast south southwest west northwest n ne e se s sw w nw "
    "nne ene ese sse ssw wsw wnw nnw"
)
