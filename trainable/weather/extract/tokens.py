"""Cuts forecast prose into tokens: numbers with their sign, decades, units, words and marks."""

import re
from dataclasses import dataclass
from enum import StrEnum


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
    Unit.KMH: r"km/hr?\b|kmh\b|kph\b|(?:km|kilomet(?:re|er)s?)\s(?:per|an)\shour\b",
    Unit.MPH: r"mph\b|miles?\s(?:per|an)\shour\b",
    Unit.KNOT: r"knots?\b|kts?\b",
    Unit.MS: r"m/s\b|met(?:re|er)s?\sper\ssecond\b",
    Unit.PERCENT: r"%|per\s?cent\b",
    Unit.INCH: r"inch(?:es)?\b|feet\b|foot\b|ft\b",
    Unit.MILLIMETRE: r"[mc]m\b|(?:milli|centi)met(?:re|er)s?\b",
    Unit.OTHER: (
        r"[ap]\.m\.|(?:[ap]m|utc|gmt|z|o'clock|hours?|hrs?|minutes?|days?|weeks?|m|met(?:re|er)s?|km|kilomet\w+|"
        r"miles?|hpa|mb|mbar|millibars?|kpa)\b"
    ),
}
_TENS = ("twenties", "thirties", "forties", "fifties", "sixties", "seventies", "eighties", "nineties")
_DECADES = {"single": 0.0, "teens": 10.0} | {word: 10.0 * tens for tens, word in enumerate(_TENS, 2)}
_MARKS = {",": Kind.COMMA, "(": Kind.BRACKET, "/": Kind.BRACKET, "-": Kind.DASH}
_TOKEN = re.compile(
    r"(?P<other>\d{1,2}:\d\d|\d{4}-\d\d-\d\d|\d+(?:st|nd|rd|th)\b|\d{7,})|"
    # A dash is a sign where nothing precedes it; "15-25" and "10mph-15mph" are ranges.
    r"(?P<sign>(?<![\w°%)])-(?=\d))|"
    r"(?P<decade>\d{0,2}0'?s\b|teens\b|single[ -]digits?\b|" + "|".join(_TENS) + r")|"
    r"(?P<number>\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?|\bzero\b)|"
    + "|".join(f"(?P<{unit.name}>{pattern})" for unit, pattern in _UNITS.items())
    + r"|(?P<word>(?:max|min|temps?|approx)\.|[a-z]+(?:'[a-z]+)?)|(?P<end>[.;!?\n])|(?P<mark>[,(/-])",
    re.IGNORECASE,
)
_SAME = str.maketrans({"−": "-", "–": "-", "—": "-", "º": "°", "˚": "°", "’": "'", "℃": "°C", "℉": "°F"})
_METAR_GUST = re.compile(r"(?<=\d)g(?=\d)", re.IGNORECASE)


def tokens(text: str) -> list[Token]:
    """Return the tokens of a text; what is none of their kinds is left out."""
    text = _METAR_GUST.sub(" gusts ", text.translate(_SAME))
    found: list[Token] = []
    sign = 1.0
    for match in _TOKEN.finditer(text):
        name, words = match.lastgroup or "", match[0].lower()
        if name == "sign" or words == "minus":
            sign = -1.0
            continue
        found.append(_token(name, words, sign))
        sign = 1.0
    return found


def _token(name: str, words: str, sign: float) -> Token:
    if name == "number":
        return Token(Kind.NUMBER, words, sign * (0.0 if words == "zero" else float(words.replace(",", ""))))
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
