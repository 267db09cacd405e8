"""Cuts forecast prose into tokens: numbers with their sign, decades, units, words and marks."""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache


class Unit(StrEnum):
    """What a number counts.

    `INCH` and `MILLIMETRE` stand for all depths of their system, `OTHER` for all that is not named here.
    """

    CELSIUS = "°C"
    FAHRENHEIT = "°F"
    DEGREE = "°"
    KMH = "km/h"
    MPH = "mph"
    KNOT = "kt"
    MS = "m/s"
    PERCENT = "%"
    INCH = "in"
    MILLIMETRE = "mm"
    OTHER = "other"


class Kind(StrEnum):
    """What a token is."""

    NUMBER = "number"
    DECADE = "decade"
    UNIT = "unit"
    WORD = "word"
    DASH = "dash"
    COMMA = "comma"
    BRACKET = "bracket"
    END = "end"


@dataclass(frozen=True)
class Token:
    """A piece of a text.

    Attributes:
        text: in lower case.
        value: of a number; of a decade such as `50s`, where it begins: -0.0 for `minus single digits`.
        unit: what a token of kind `UNIT` stands for.
    """

    kind: Kind
    text: str
    value: float = 0.0
    unit: Unit | None = None


_UNITS = {
    Unit.CELSIUS: r"(?:°\s*|degrees?\s+|(?<=\d)\s?|(?<=\ds)\s?)C\b|(?:degrees?\s+)?(?:celsius|centigrade)\b",
    Unit.FAHRENHEIT: r"(?:°\s*|degrees?\s+|(?<=\d)\s?|(?<=\ds)\s?)F\b|(?:degrees?\s+)?fahrenheit\b",
    Unit.DEGREE: r"°|degrees?\b",
    Unit.KMH: r"km/hr?\b|kmp?h\b|kph\b|(?:km|kilomet(?:re|er)s?)(?:/|\sper\s|\san\s)hour\b",
    Unit.MPH: r"mph\b|miles?(?:/|\sper\s|\san\s)hour\b",
    Unit.KNOT: r"knots?\b|kts?\b",
    Unit.MS: r"m/s\b|met(?:re|er)s?(?:/|\sper\s)second\b",
    Unit.PERCENT: r"%|per\s?cent\b",
    Unit.INCH: r"inch(?:es)?\b|feet\b|foot\b|ft\b",
    Unit.MILLIMETRE: r"[mc]m\b|(?:milli|centi)met(?:re|er)s?\b",
    Unit.OTHER: (
        r"[ap]\.m\.|(?:[ap]m|utc|gmt|z|o'clock|hours?|hrs?|minutes?|days?|weeks?|months?|years?|m|met(?:re|er)s?|km|kilomet\w+|"
        r"decades?|miles?|hpa|mb|mbar|millibars?|kpa)\b(?!')"
    ),
}
_TENS = ("twenties", "thirties", "forties", "fifties", "sixties", "seventies", "eighties", "nineties")
_DECADES = {"single": 0.0, "teens": 10.0} | {word: 10.0 * tens for tens, word in enumerate(_TENS, 2)}
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_NUMERALS = {word: float(value) for value, word in enumerate(_SMALL)}
_NUMERALS |= {word.removesuffix("ies") + "y": value for word, value in _DECADES.items() if word in _TENS}
_TENS_PATTERN = "|".join(word for word, value in _NUMERALS.items() if value >= 20)
# "One" alone is rarely a number: "one of the warmest days".
_ONE = rf"(?<=minus\s)one|(?<=of\s)one|one(?=\sin\s(?:\d|{'|'.join(_SMALL)}))"
_IN_WORDS = (
    rf"\b(?:(?:{_TENS_PATTERN})(?:\s(?:{'|'.join(_SMALL[1:10])}))?"
    rf"|(?:{'|'.join(word for word in _SMALL if word != 'one')})|{_ONE})\b"
)
_MARKS = {",": Kind.COMMA, "(": Kind.BRACKET, "/": Kind.BRACKET, "-": Kind.DASH}
_TOKEN = re.compile(
    # Times, dates, ordinals, years.
    r"(?P<other>\d{1,2}:\d\d|\d{4}-\d\d-\d\d|\d+(?:st|nd|rd|th)\b|\d{7,}|\b(?:1[89]|20)\d\d\b)|"
    # A dash is a sign where nothing precedes it; "15-25" and "10mph-15mph" are ranges.
    r"(?P<sign>(?<![\w°%)])-(?=\d))|"
    r"(?P<decade>\d{0,2}0'?s\b|teens\b|single[ -]digits?\b|" + "|".join(_TENS) + r")|"
    r"(?P<number>\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?|"
    + _IN_WORDS
    + ")|"
    + "|".join(f"(?P<{unit.name}>{pattern})" for unit, pattern in _UNITS.items())
    + r"|(?P<word>(?:max|min|temps?|approx)\.|[^\W\d_]+(?:'[^\W\d_]+)?)|(?P<end>[.;!?\n])|(?P<mark>[,(/-])",
    re.IGNORECASE,
)
_SAME = str.maketrans({"−": "-", "–": "-", "—": "-", "º": "°", "˚": "°", "’": "'", "℃": "°C", "℉": "°F"})
_LAYOUT = (
    (re.compile(r"\n\s*\n"), ". "),
    (re.compile(r"\s+"), " "),
    (re.compile(r"(?<=\d)g(?=\d)", re.IGNORECASE), " gusts "),
    (re.compile(r"(?<=[\d°])\s?(?:…|\.{2,})\s?(?=-?\d)"), " to "),
    # "a 20-mph wind", "20- to 30-mph winds", "snow-covered", "twenty-five"
    (re.compile(r"(?<=\w)-(?=[^\W\d_]|\sto\b)"), " "),
)
# In lower case, not to count the names of places; none that is a direction or an English word.
_FOREIGN = re.compile(
    r"\b(?:de|du|des|le|la|les|et|est|une?|avec|und|der|das|mit|aus|auf|von|bei|nicht|kein|el|los|las|por|una|hay|"
    r"il|di|del|della|och|med|inte|på|ikke|og|ingen|het|een|niet|com|não|uma)\b"
)
_ENGLISH = re.compile(
    r"\b(?:the|of|and|with|to|in|near|around|a|is|are|be|will|by|at|for|from|no|high|low)\b", re.IGNORECASE
)


# One text is asked for its units, temperatures, wind and precipitation in turn.
@lru_cache(maxsize=64)
def tokens(text: str) -> tuple[Token, ...]:
    """Return the tokens of a text; what is none of their kinds is left out.

    A line break is a blank and an empty line ends a sentence. A text in which the function words of another
    language outnumber the English ones has no tokens: its words could mean anything.
    """
    text = text.translate(_SAME)
    for pattern, replacement in _LAYOUT:
        text = pattern.sub(replacement, text)
    if len(_FOREIGN.findall(text)) > len(_ENGLISH.findall(text)):
        return ()
    found: list[Token] = []
    sign = 1.0
    for match in _TOKEN.finditer(text):
        name, words = match.lastgroup or "", match[0].lower()
        if name == "sign" or words == "minus":
            sign = -1.0
            continue
        found.append(_token(name, words, sign))
        sign = 1.0
    return tuple(found)


def _token(name: str, words: str, sign: float) -> Token:
    if name == "number":
        return Token(Kind.NUMBER, words, sign * _number(words))
    if name == "decade":
        digits = words.rstrip("s'")
        value = float(digits) if digits.isdigit() else _DECADES[words.split("-")[0].split()[0]]
        return Token(Kind.DECADE, words, sign * value)
    if name in Unit.__members__:
        return Token(Kind.UNIT, words, unit=Unit[name])
    if name == "other":
        return Token(Kind.WORD, words)
    if name == "mark":
        return Token(_MARKS[words], words)
    return Token(Kind.END if name == "end" else Kind.WORD, words.rstrip(".") or ".")


def _number(words: str) -> float:
    if words[0].isdigit():
        return float(words.replace(",", ""))
    return sum(_NUMERALS[word] for word in words.split())
