"""Finds the quantities of a forecast, and what each is said of.

`spans` reads the numbers. What one is said of is the topic named right after it ("48 for the high", "40 mph
gusts"), else the last word before it, in its sentence, that names a topic: "a high near 45" is a high, "gusts
to 30" a gust, "UV index 8" none of ours. A topic ends with its sentence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from trainable.weather.extract.spans import Cursor, Span
from trainable.weather.extract.tokens import Kind, Token, Unit, tokens
from trainable.weather.extract.vocabulary import (
    CHANGES,
    CONNECTORS,
    COPULAS,
    FILLERS,
    KINDS,
    NAMES_NO_TEMPERATURE,
    NORMS,
    NOT_A_LEVEL,
    NOT_AIR,
    NOT_FORECAST,
    OTHER_WEATHER,
    PARTS,
    SUPERLATIVES,
    TOPICS,
    WINDS,
    Topic,
    direction,
)

KMH: Mapping[Unit, float] = {Unit.KMH: 1.0, Unit.MPH: 1.609344, Unit.KNOT: 1.852, Unit.MS: 3.6}
"""Kilometres an hour in one unit of speed."""
_DEGREES = frozenset({Unit.CELSIUS, Unit.FAHRENHEIT, Unit.DEGREE})
_TOPICS_OF = {
    "degrees": (Topic.HIGH, Topic.LOW),
    "speed": (Topic.WIND, Topic.GUST),
    "percent": (Topic.CHANCE, Topic.OTHER),
}
"""What may be named right after a number of each family of units."""
_BEFORE_OWN_NUMBER = FILLERS | {"to", "up", "gusts", *PARTS}
"""Words between a topic and its own number: `gusts up to 40`."""
_BEAUFORT = 12
"""The largest number of the Beaufort scale."""
_BEARING_DIGITS = 3
_CIRCLE = 360


@dataclass(frozen=True)
class Reading:
    """A quantity that a text states.

    Attributes:
        topic: `None` where no word of its sentence tells.
        unit: `None` for a bare number.
        joined: whether both ends are told: `12 to 20`, not `the mid 30s`.
        bound: whether only its upper end is told: `less than 8`, `8 or less`, `up to 8`.
        phase: counts changes in time: `10 mph, increasing to 20 mph` are two phases.
        word: the word that stands for the number, such as `calm`.
    """

    topic: Topic | None
    span: Span
    unit: Unit | None
    joined: bool = False
    bound: bool = False
    phase: int = 0
    word: str | None = None


# One text is asked for its units, temperatures, wind and precipitation in turn.
@lru_cache(maxsize=64)
def readings(text: str) -> tuple[Reading, ...]:
    """Return all quantities of a text, in its order, those that are of no use to us included."""
    return tuple(_Reader(tokens(text)).read())


class _Reader:
    def __init__(self, found: Sequence[Token]) -> None:
        self._cursor = Cursor(found)
        self._topic: Topic | None = None
        self._next: Topic | None = None
        self._told = False
        self._phase = 0
        self._found: list[Reading] = []

    def read(self) -> list[Reading]:
        while not self._cursor.done:
            start = self._cursor.at
            reading = self._quantity()
            if reading is None:
                self._cursor.at = start
                self._name()
                self._cursor.at += 1
            elif not self._repeats(start, reading):
                self._found.append(reading)
                self._told = True
                if self._next:
                    self._topic, self._next = self._next, None
        return self._found

    def _repeats(self, start: int, reading: Reading) -> bool:
        """Whether a reading is the one before it in another unit: `10 mph (16 km/h)`, `72 (22 °C)`."""
        if not self._found or self._found[-1].word or reading.unit is None:
            return False
        last = self._found[-1]
        bracket = self._cursor.tokens[start - 1].kind is Kind.BRACKET
        scales = {Unit.CELSIUS: Unit.FAHRENHEIT, Unit.FAHRENHEIT: Unit.CELSIUS}
        if bracket and last.unit in (None, Unit.DEGREE) and reading.unit in scales:
            last = replace(last, unit=scales[reading.unit])
            if _equal(last, reading):
                self._found[-1] = last
        if last.unit is None or last.unit == reading.unit or (last.unit in KMH) != (reading.unit in KMH):
            return False
        return bracket or _equal(last, reading)

    def _name(self) -> None:
        """Let a token that is no quantity change what is spoken of."""
        token = self._cursor.peek()
        if token.kind is Kind.END:
            self._topic, self._next, self._told = None, None, False
            self._phase += 1
        elif token.text in CHANGES:
            self._phase += 1
            if self._topic is Topic.GUST and self._told:
                self._topic, self._told = Topic.WIND, False
        elif direction(token.text):
            if self._topic in (None, Topic.CHANCE, Topic.OTHER) or (self._topic is Topic.GUST and self._told):
                self._topic, self._told = Topic.WIND, False
        elif (topic := self._named()) and self._names(topic):
            pair = {self._topic, topic} == {Topic.HIGH, Topic.LOW}
            if pair and not self._told and self._cursor.before(self._cursor.at - 1) in ("and", "/"):
                # "The high and low will be 70 and 52."
                self._next = topic
            else:
                self._topic, self._told = topic, False
        self._word()

    def _named(self) -> Topic | None:
        text, following = self._cursor.peek().text, self._cursor.peek(1).text
        if text in SUPERLATIVES and (
            following == "values" or TOPICS.get(following) is Topic.TEMPERATURE or self._precedes_degrees()
        ):
            return SUPERLATIVES[text]
        if text in NOT_AIR and following in COPULAS:
            return Topic.FELT
        return TOPICS.get(text)

    def _precedes_degrees(self) -> bool:
        """Whether a number of degrees follows: `top 24`, `a top of 24`; not `gusts top 60`."""
        ahead = 1
        while self._cursor.peek(ahead).text == "of" or self._cursor.peek(ahead).text in PARTS:
            ahead += 1
        if self._cursor.peek(ahead).kind not in (Kind.NUMBER, Kind.DECADE):
            return False
        unit = self._cursor.peek(ahead + 1).unit
        others = (Topic.WIND, Topic.GUST, Topic.FELT, Topic.MOTION)
        return unit in _DEGREES or (unit is None and self._topic not in others)

    def _names(self, topic: Topic) -> bool:
        previous, following = self._cursor.before(self._cursor.at - 1), self._cursor.peek(1).text
        if topic in (Topic.HIGH, Topic.LOW):
            if previous in NOT_FORECAST:
                self._topic = Topic.FELT
                return False
            return (previous, following) != ("as", "as") and following not in NAMES_NO_TEMPERATURE
        if topic is Topic.TEMPERATURE:
            if previous in NOT_AIR:
                self._topic = Topic.FELT
                return False
            # "minimum temperature", "apparent temperature"
            return self._told or self._topic not in (Topic.HIGH, Topic.LOW, Topic.FELT)
        if self._cursor.peek().text == "record" and TOPICS.get(following) in (Topic.HIGH, Topic.LOW):
            return False
        return not (topic is Topic.OTHER and self._topic is Topic.FELT)

    def _word(self) -> None:
        """Read a word that stands for a wind."""
        word, following = self._cursor.peek().text, self._cursor.peek(1).text
        stands = {
            "calm": following not in ("sea", "seas", "water", "waters"),
            "no": following in ("wind", "winds"),
            "light": self._light(),
        }
        if word in WINDS and stands.get(word, True):
            if word == "calm" and self._topic is Topic.WIND and self._told:
                self._phase += 1
            span = Span(*WINDS[word])
            self._found.append(Reading(Topic.WIND, span, Unit.MPH, phase=self._phase, word=word))

    def _light(self) -> bool:
        """Whether `light` is said of the wind: `light southwest wind`, `becoming light`; not `light rain`."""
        ahead = 1
        while (text := self._cursor.peek(ahead).text) in ("and", "to", "variable", "moderate") or direction(
            text
        ):
            ahead += 1
        if TOPICS.get(text) is Topic.WIND:
            return True
        return self._topic in (Topic.WIND, Topic.GUST) and text not in KINDS and text not in OTHER_WEATHER

    def _quantity(self) -> Reading | None:
        start = self._cursor.at
        measure = self._cursor.measure()
        if measure is None:
            return None
        unit = measure.unit
        if unit is None and measure.span.low < 0 and self._topic is None:
            unit = Unit.DEGREE
        topic, level = self._said_of(unit), self._level(start, unit)
        if topic is Topic.WIND and unit is None and self._is_bearing(start):
            level = Unit.OTHER
        if measure.joint == "or" and topic is Topic.WIND and unit is None and measure.span.high <= _BEAUFORT:
            # "SW 4 or 5, occasionally 6" are forces.
            self._topic, level = Topic.OTHER, Unit.OTHER
        return Reading(topic, measure.span, level, measure.joint is not None, measure.bound, self._phase)

    def _is_bearing(self, start: int) -> bool:
        """Whether a number is where the wind comes from: `310 at 15 knots`."""
        digits, following = self._cursor.tokens[start].text, self._cursor.peek(1)
        bearing = digits.isdigit() and len(digits) == _BEARING_DIGITS and int(digits) <= _CIRCLE
        return bearing and self._cursor.peek().text == "at" and following.kind is Kind.NUMBER

    def _said_of(self, unit: Unit | None) -> Topic | None:
        """Return the topic: the one named right after the number, if that has no number of its own."""
        when = 1 if self._cursor.peek().text == "set" else 0
        if self._cursor.peek(when).text == "in" and _is_year(self._cursor.peek(when + 1)):
            # "A record low of -30 in 1985" is history, and so is its topic.
            self._topic = None
            return Topic.FELT
        ahead = 0
        while (text := self._cursor.peek(ahead).text) in CONNECTORS or (unit in KMH and direction(text)):
            ahead += 1
        named = Topic.CHANCE if unit is Unit.PERCENT and text in KINDS else TOPICS.get(text)
        if named is Topic.WIND and TOPICS.get(self._cursor.peek(ahead + 1).text) is Topic.GUST:
            # "40 km/h wind gusts"
            ahead, named = ahead + 1, Topic.GUST
        if unit is Unit.PERCENT and self._cursor.peek().text == "of":
            named = TOPICS.get(self._cursor.peek(1).text)
        family = "speed" if unit in KMH else "percent" if unit is Unit.PERCENT else "degrees"
        if named not in _TOPICS_OF[family]:
            return self._topic
        ahead += 1
        while self._cursor.peek(ahead).text in _BEFORE_OWN_NUMBER:
            ahead += 1
        owns = self._cursor.peek(ahead).kind in (Kind.NUMBER, Kind.DECADE)
        return self._topic if owns and named is not Topic.CHANCE else named

    def _level(self, start: int, unit: Unit | None) -> Unit | None:
        """Return the unit; `OTHER` for a difference: `5 degrees above normal`, `falling by 10 degrees`."""
        following = self._cursor.peek().text
        if following in ("above", "below"):
            difference = self._cursor.compares()
        else:
            difference = unit in _DEGREES and following in NOT_A_LEVEL | NORMS
        return Unit.OTHER if difference or self._cursor.before(start - 1) in ("by", "up", "down") else unit


def _is_year(token: Token) -> bool:
    return token.kind is Kind.WORD and len(token.text) == 4 and token.text.isdigit()


def _equal(first: Reading, second: Reading) -> bool:
    """Whether two readings in different units are the same, as far as numbers are rounded."""
    if first.unit is None or second.unit is None:
        return False
    if first.unit in KMH and second.unit in KMH:
        return abs(first.span.middle * KMH[first.unit] / KMH[second.unit] - second.span.middle) <= 1
    if first.unit is Unit.CELSIUS and second.unit is Unit.FAHRENHEIT:
        return abs(first.span.middle * 9 / 5 + 32 - second.span.middle) <= 1
    if first.unit is Unit.FAHRENHEIT and second.unit is Unit.CELSIUS:
        return abs((first.span.middle - 32) * 5 / 9 - second.span.middle) <= 1
    return False
