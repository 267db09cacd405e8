"""Finds the numbers of a forecast, and what each is said of.

The grammar of a quantity, after words such as `near` that change nothing:

    quantity = end [("to" | "-" | "or" | "and", after "between") end]
    end      = number [unit] ["above" | "below" ["zero"]] | [part ["to" part]] decade [unit]
    part     = "low" | "lower" | "mid" | "middle" | "high" | "upper"

What it is said of is the topic named right after it ("48 for the high", "40 mph gusts"), else the last word
before it, in its sentence, that names a topic: "a high near 45" is a high, "gusts to 30" a gust, "UV index 8"
none of ours. A topic ends with its sentence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import copysign

from trainable.weather.extract.tokens import Kind, Token, Unit, tokens
from trainable.weather.extract.vocabulary import (
    CHANGES,
    CONNECTORS,
    FILLERS,
    KINDS,
    MONTHS,
    NAMES_NO_TEMPERATURE,
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
    "percent": (Topic.CHANCE,),
}
"""What may be named right after a number of each family of units."""
_BEFORE_OWN_NUMBER = FILLERS | {"to", "up", "gusts", *PARTS}
"""Words between a topic and its own number: `gusts up to 40`."""
_BEAUFORT = 12
"""The largest number of the Beaufort scale."""


@dataclass(frozen=True)
class Span:
    """A quantity from `low` to `high`; both are the same for a single number."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """The number that stands for the span."""
        return (self.low + self.high) / 2


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
        self._tokens = [*found, Token(Kind.END, "."), Token(Kind.END, ".")]
        self._at = 0
        self._topic: Topic | None = None
        self._next: Topic | None = None
        self._told = False
        self._phase = 0
        self._found: list[Reading] = []

    def read(self) -> list[Reading]:
        while self._at < len(self._tokens) - 1:
            start = self._at
            reading = self._quantity()
            if reading is None:
                self._at = start
                self._name()
                self._at += 1
            elif not self._repeats(start, reading):
                self._found.append(reading)
                self._told = True
                if self._next:
                    self._topic, self._next = self._next, None
        return self._found

    def _peek(self, ahead: int = 0) -> Token:
        return self._tokens[min(self._at + ahead, len(self._tokens) - 1)]

    def _before(self, place: int) -> str:
        return self._tokens[place].text if place >= 0 else ""

    def _take(self, *texts: str) -> bool:
        if self._peek().text not in texts:
            return False
        self._at += 1
        return True

    def _repeats(self, start: int, reading: Reading) -> bool:
        """Whether a reading is the one before it in another unit: `10 mph (16 km/h)`, `72 (22 °C)`."""
        if not self._found or self._found[-1].word or reading.unit is None:
            return False
        last = self._found[-1]
        bracket = self._tokens[start - 1].kind is Kind.BRACKET
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
        token = self._peek()
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
        elif (topic := self._named(self._at)) and self._names(topic):
            pair = {self._topic, topic} == {Topic.HIGH, Topic.LOW}
            if pair and not self._told and self._before(self._at - 1) in ("and", "/"):
                # "The high and low will be 70 and 52."
                self._next = topic
            else:
                self._topic, self._told = topic, False
        self._word()

    def _named(self, place: int) -> Topic | None:
        text, following = self._tokens[place].text, self._tokens[min(place + 1, len(self._tokens) - 1)]
        if text in SUPERLATIVES and (
            following.kind is Kind.NUMBER
            or following.text == "values"
            or TOPICS.get(following.text) is Topic.TEMPERATURE
        ):
            return SUPERLATIVES[text]
        return TOPICS.get(text)

    def _names(self, topic: Topic) -> bool:
        previous, following = self._before(self._at - 1), self._peek(1).text
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
        if self._peek().text == "record" and TOPICS.get(following) in (Topic.HIGH, Topic.LOW):
            return False
        return not (topic is Topic.OTHER and self._topic is Topic.FELT)

    def _word(self) -> None:
        """Read a word that stands for a wind."""
        word, following = self._peek().text, self._peek(1).text
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
        while (text := self._peek(ahead).text) in ("and", "to", "variable", "moderate") or direction(text):
            ahead += 1
        if TOPICS.get(text) is Topic.WIND:
            return True
        return self._topic in (Topic.WIND, Topic.GUST) and text not in KINDS and text not in OTHER_WEATHER

    def _quantity(self) -> Reading | None:
        start = self._at
        first = self._end()
        if first is None:
            return None
        span, unit, side = first
        after = self._at
        joint = self._peek().text
        second = None
        if self._joins(start):
            # After a dash or "or", all but a number begins another clause: "40 – about 5 degrees warmer".
            while joint not in ("-", "or") and self._take(*FILLERS):
                pass
            second = self._end()
            if joint in ("-", "or") and second is not None and not self._continues(unit, second[1]):
                second = None
        if second is None:
            self._at = after
        else:
            other, unit_2, side_2 = second
            if side_2 == "below" and not side and span.low > 0:
                span = Span(-span.high, -span.low)
            unit = unit_2 or unit
            span = Span(min(span.low, other.low), max(span.high, other.high))
        topic, level = self._said_of(unit), self._level(start, unit)
        if (
            joint == "or"
            and second is not None
            and topic is Topic.WIND
            and unit is None
            and span.high <= _BEAUFORT
        ):
            # "SW 4 or 5, occasionally 6" are forces.
            self._topic, level = Topic.OTHER, Unit.OTHER
        return Reading(
            topic=topic,
            span=span,
            unit=level,
            joined=second is not None,
            bound=self._bound(start),
            phase=self._phase,
        )

    def _end(self) -> tuple[Span, Unit | None, str] | None:
        """Read one end of a quantity: its span, its unit, and `below` or `above` if that is said."""
        start = self._at
        token = self._peek()
        if token.kind is Kind.NUMBER:
            if self._is_date(start):
                return None
            self._at += 1
            span = Span(token.value, token.value)
            if token.value < 0 and self._topic is None and self._peek().unit is None:
                return span, Unit.DEGREE, ""
        else:
            parts = self._parts()
            token = self._peek()
            if token.kind is not Kind.DECADE:
                self._at = start
                return None
            self._at += 1
            ends = [token.value + copysign(digit, token.value) for digit in parts]
            span = Span(min(ends), max(ends))
        unit = self._peek().unit
        self._at += unit is not None
        side = ""
        if self._peek().text in ("below", "above") and self._peek(1).text not in NOT_A_LEVEL:
            side = self._peek().text
            self._at += 1
            if self._take("zero"):
                unit = unit or Unit.DEGREE
            if side == "below" and span.high > 0:
                span = Span(-span.high, -span.low)
        return span, unit, side

    def _parts(self) -> tuple[int, int]:
        """Read the part of a decade, the whole of it if none is told."""
        digits: list[int] = []
        while self._peek().text in PARTS:
            digits += PARTS[self._peek().text]
            self._at += 1
            # "mid to upper 30s", "mid-30s", "upper single digits"
            self._take("to", "-")
        return (min(digits), max(digits)) if digits else (0, 9)

    def _joins(self, start: int) -> bool:
        if self._peek().text == "and":
            if self._tokens[self._at - 1].kind is self._peek(1).kind is Kind.DECADE:
                return self._take("and")
            while self._before(start - 1) in FILLERS - {"between"}:
                start -= 1
            return self._before(start - 1) == "between" and self._take("and")
        if self._before(start - 1) == "from":
            # "from 18 in the north to 25 in the south"
            ahead = 0
            while ahead < 4 and self._peek(ahead).kind is Kind.WORD and self._peek(ahead).text != "to":
                ahead += 1
            if self._peek(ahead).text == "to" and self._peek(ahead + 1).kind is Kind.NUMBER:
                self._at += ahead
        return self._take("to", "-") or (self._peek(1).kind is Kind.NUMBER and self._take("or"))

    def _continues(self, first: Unit | None, second: Unit | None) -> bool:
        """Whether the second end of a range is in the unit of its first, and no difference."""
        same = first is None or second is None or first == second or Unit.DEGREE in (first, second)
        return same and self._peek().text not in NOT_A_LEVEL

    def _is_date(self, place: int) -> bool:
        """Whether a number is that of a day: `March 12`, `12 March`, `on 3 May`."""
        following = self._peek(1).text
        if self._before(place - 1) in MONTHS:
            return True
        # "Winds of 20 may gust"
        return following in MONTHS and (following != "may" or self._before(place - 1) == "on")

    def _bound(self, start: int) -> bool:
        if self._peek().text == "or" and self._peek(1).text in ("less", "below", "under", "lower"):
            self._at += 2
            return True
        before = (self._before(start - 2), self._before(start - 1))
        if before == ("more", "than") or before[1] == "exceeding":
            return not {"no", "not"}.isdisjoint((before[0], self._before(start - 3)))
        return before in (("less", "than"), ("up", "to"), ("at", "most")) or before[1] in ("below", "under")

    def _said_of(self, unit: Unit | None) -> Topic | None:
        """Return the topic: the one named right after the number, if that has no number of its own."""
        when = 1 if self._peek().text == "set" else 0
        if self._peek(when).text == "in" and _is_year(self._peek(when + 1)):
            # "A record low of -30 in 1985" is history, and so is its topic.
            self._topic = None
            return Topic.FELT
        ahead = 0
        while (text := self._peek(ahead).text) in CONNECTORS or (unit in KMH and direction(text)):
            ahead += 1
        named = TOPICS.get(self._peek(ahead).text)
        if named is Topic.WIND and TOPICS.get(self._peek(ahead + 1).text) is Topic.GUST:
            # "40 km/h wind gusts"
            ahead, named = ahead + 1, Topic.GUST
        if unit is Unit.PERCENT and self._peek().text == "of":
            named = TOPICS.get(self._peek(1).text)
        family = "speed" if unit in KMH else "percent" if unit is Unit.PERCENT else "degrees"
        if named not in _TOPICS_OF[family]:
            return self._topic
        ahead += 1
        while self._peek(ahead).text in _BEFORE_OWN_NUMBER:
            ahead += 1
        owns = self._peek(ahead).kind in (Kind.NUMBER, Kind.DECADE)
        return self._topic if owns and family != "percent" else named

    def _level(self, start: int, unit: Unit | None) -> Unit | None:
        """Return the unit; `OTHER` for a difference: `5 degrees above normal`, `falling by 10 degrees`."""
        following = self._peek().text
        if following in ("above", "below"):
            difference = self._peek(1).text in NOT_A_LEVEL
        else:
            difference = unit in _DEGREES and following in NOT_A_LEVEL
        return Unit.OTHER if difference or self._before(start - 1) in ("by", "up", "down") else unit


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
