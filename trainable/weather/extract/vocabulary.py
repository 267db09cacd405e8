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
    MOTION = "motion"
    OTHER = "other"


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _by_word(words: Mapping[Meaning, str]) -> dict[str, Meaning]:
    return {word: meaning for meaning, several in words.items() for word in several.split()}


KINDS = _by_word(
    {
        "snow": "snow snows snowy snowing snowfall snowstorm snowstorms flurry flurries blizzard blizzards",
        "ice": "sleet hail hailstorm hailstorms hailstones",
        "thunder": "thunder thunderstorm thunderstorms thundershower thundershowers thundery storm storms "
        "tstm tstms tstorm tstorms",
        "rain": "rain rains rainstorm rainstorms rainy raining rainfall "
        "shower showers showery drizzle drizzly sprinkle sprinkles "
        "downpour downpours cloudburst cloudbursts deluge deluges pour pours pouring",
        "": "precipitation precip wet soaking soakings soaker",
    }
)
"""Kinds of precipitation by the word that names them; `precipitation` names none."""
TOPICS = dict.fromkeys(KINDS, Topic.CHANCE) | _by_word(
    {
        Topic.HIGH: "high highs hi maximum maximums maxima max",
        Topic.LOW: "low lows lo minimum minimums minima min",
        Topic.TEMPERATURE: "temperature temperatures temp temps reading readings mercury thermometer "
        "warming warms cooling cools",
        Topic.FELT: "chill chills index feel feels feeling apparent dew dewpoint dewpoints humidex "
        "realfeel record records",
        Topic.WIND: "wind winds windy breeze breezes breezy blustery gusty variable "
        "gale gales squall squalls blow blows blew blowing",
        Topic.GUST: "gust gusts gusting",
        Topic.CHANCE: "chance chances probability pop risk likelihood",
        Topic.MOTION: "move moves moving head heads heading travel travels traveling travelling driving",
        Topic.OTHER: "accumulation accumulations amount amounts rainfall snowfall humidity pressure "
        "barometer visibility visibilities level levels wave waves sea seas swell swells cloud clouds "
        "cover overcast cloudy cloudiness sunshine force",
    }
)
"""Topics by the word that names them."""
SUPERLATIVES = _by_word(
    {Topic.HIGH: "highest warmest hottest top peak", Topic.LOW: "lowest coldest coolest bottom"},
)
"""Words that make a temperature a high or a low: `top temperature`; not `the warmest day`."""
NOT_FORECAST = _set("normal average usual typical seasonal yesterday's")
"""Words before a high or a low that make it one of another day."""
CONNECTORS = _set("for is as the a an expected forecast daytime overnight today's tonight's our your")
"""Words between a number and the topic that follows it: `48 for the high`."""
NOT_AIR = _set("water sea surface soil ground road lake")
"""What has a temperature of its own: `water temperature 12`, `the sea is 12 degrees`."""
COPULAS = _set("is are was were")
NAMES_NO_TEMPERATURE = _set(
    "pressure cloud clouds cloudiness overcast wind winds gust gusts chance chances humidity level levels "
    "tide tides water visibility elevation elevations terrain country ground confidence probability risk"
)
"""Words after `high` and `low` that these only qualify."""
NOT_A_LEVEL = _set("freezing cooler warmer colder hotter than up higher lower")
"""Words after degrees, or after `above` and `below`, that make a number a difference."""
NORMS = _set("normal normals average averages norm norms seasonal usual")
"""What a difference is from, after any words: `2 below the long-term average`."""
CHANCES = _set("chance chances probability likelihood risk odds")
"""What a ratio may be: `a one in five chance`."""
FILLERS = _set("near around about approximately approx roughly the a in as between from of at plus")
"""Words before a number that change nothing."""
CHANGES = _set("then later go goes drop drops dropping set sets setting") | {
    stem + ending
    for stem in _set(
        "becom increas decreas diminish ris eas fall veer back freshen build subsid turn shift strengthen "
        "weaken slacken"
    )
    for ending in ("", "e", "s", "es", "ing")
}
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
    "windless": (0, 0),
    "light": (0, 5),
    "breezy": (15, 25),
    "blustery": (15, 25),
    "windy": (20, 30),
}
"""Wind speeds in mph by the word that stands for them."""
LULLS = _set("calm light no windless")
"""Those of them that are a state of the wind of their own, beside numbers."""

FROZEN = frozenset({("freezing", "rain"), ("freezing", "drizzle"), ("ice", "pellets"), ("wintry", "mix")})
"""Kinds of ice in two words."""
AMOUNTS = _set("rainfall snowfall accumulation accumulations")
"""Words that tell how much falls; what falls is told elsewhere, if anywhere."""
OTHER_WEATHER = _set("fog mist haze frost freezing icing")
"""What may be light besides wind and precipitation."""
ON_THE_GROUND = _set(
    "level levels depth cover covered pack packed line surge gauge shadow melt capped road "
    "roads ground drifts"
)
"""Words after `snow` or `rain` with which nothing falls."""
PERIODS = _set("night week weekend month season winter spring summer autumn fall year")
"""Times that are past after `last`."""
LYING = _set("blowing drifting packed melting lying fallen old existing recent yesterday's")
"""Words before what fell with which nothing falls now."""
COVERED = _set("covered blanketed coated buried")
"""Words before `in snow` and `with snow` with which nothing falls."""
GROUND = _set(
    "ground road roads street streets field fields slope slopes roof roofs pavement sidewalks lawns"
)
"""What snow lies on."""
NOTICES = _set("watch watches")
"""What is named after precipitation and tells only that it may come."""
WARNINGS = _set("warning warnings advisory advisories alert alerts")
CANCELED = _set("cancelled canceled lifted expired expires dropped")
"""What makes a warning one of nothing."""
DENIALS = _set(
    "no without not never neither nor nil cannot nothing nowhere doubt doubtful unlikely fail fails failing "
    "exclude excludes excluded"
)
"""Words that deny what follows in their clause, with all that end in `n't`."""
DENYING_PAIRS = {
    (word, preposition)
    for words, prepositions in {
        "break respite relief reprieve letup lull pause": "from in",
        "free": "of from",
        "lack absence": "of",
        "end": "to",
        "rule ruled ruling": "out",
    }.items()
    for word in words.split()
    for preposition in prepositions.split()
}
"""Two words that deny what follows: `a break from the rain`."""
DENY_NOTHING_BEFORE = _set("only just merely")
"""Words before which `not` and `no` deny nothing: `not only rain`."""
BOUNDARIES = _set("but then until before after when while if unless though although except with instead as")
"""Words at which a clause ends, and a denial with it."""
ENDINGS = _set(
    "end ends ended ending stop stops stopped stopping cease ceases ceased ceasing taper tapers tapering "
    "die dies dying fade fades fading depart departs departing clears clearing finish finishes "
    "vanish vanishes yield yields yielding replaced passed"
)
"""Words after what falls that say it ends."""
ENDING_PAIRS = frozenset(
    (word, particle)
    for words, particles in {
        "give gives giving make makes making": "way",
        "move moves moving push pushes pushing pull pulls pulling head heads heading slide slides "
        "sliding drift drifts drifting shift shifts shifting": "out off offshore",
        "moved": "out off offshore on",
    }.items()
    for word in words.split()
    for particle in particles.split()
)
"""Two words after what falls that say it ends: `rain gives way to sunshine`, `snow moves out`."""
STOPS = _set("stop stops stopped stopping")
"""Words that deny the name right after them: `it stops raining`."""
ABSENCES = _set(
    "hold holds held holding away free unlikely ruled absent miss misses skip skips bypasses avoids"
)
"""Words after what falls that say it does not: `rain stays away`, `rain-free`, `rain is ruled out`."""
STAYS = _set("stay stays staying remain remains remaining keep keeps keeping be is are was")
"""Words after what falls with which it is where the rest of the clause says."""
ELSEWHERE = _set("out offshore elsewhere")
"""Places that are not the forecast's: `rain stays offshore`, `snow is out of the picture`."""
TIMES = _set(
    "by at around near after before until noon midnight tonight overnight today tomorrow morning afternoon "
    "evening night early late this"
)
"""Words after an ending that name its time: what ends by noon fell."""
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
