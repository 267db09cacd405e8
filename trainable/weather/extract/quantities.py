"""Finds the numbers of a forecast, and what each is said of.

The grammar of a quantity, after words such as `near` that change nothing:

    quantity = end [("to" | "-" | "and", after "between") end]
    end      = number [unit] ["above" | "below" ["zero"]] | [part ["to" part]] decade [unit]
    part     = "low" | "lower" | "mid" | "middle" | "high" | "upper"

What it is said of is the last word before it, in its sentence, that names a topic: "a high near 45" is a
high, "gusts to 30" a gust, "UV index 8" none of ours. A topic ends with its sentence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import copysign

from trainable.weather.extract.tokens import Kind, Token, Unit, tokens
from trainable.weather.extract.vocabulary import (
    CHANGES,
    FILLERS,
    KINDS,
    MONTHS,
    NAMES_NO_TEMPERATURE,
    NOT_A_LEVEL,
    NOT_AIR,
    OTHER_WEATHER,
    PARTS,
    TOPICS,
    WINDS,
    Topic,
    direction,
)

_DEGREES = frozenset({Unit.CELSIUS, Unit.FAHRENHEIT, Unit.DEGREE})
_SPEEDS = frozenset({Unit.KMH, Unit.MPH, Unit.KNOT, Unit.MS})


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
        """Whether a reading is the one before it in another unit: `10 mph (16 km/h)`."""
        if self._tokens[start - 1].kind is not Kind.BRACKET or not self._found or reading.unit is None:
            return False
        unit = self._found[-1].unit
        return unit is not None and unit != reading.unit and (unit in _SPEEDS) == (reading.unit in _SPEEDS)

    def _name(self) -> None:
        """Let a token that is no quantity change what is spoken of."""
        token = self._peek()
        if token.kind is Kind.END:
            self._topic, self._told = None, False
            self._phase += 1
        elif token.text in CHANGES:
            self._phase += 1
            if self._topic is Topic.GUST and self._told:
                self._topic, self._told = Topic.WIND, False
        elif direction(token.text):
            if self._topic in (None, Topic.CHANCE, Topic.OTHER) or (self._topic is Topic.GUST and self._told):
                self._topic, self._told = Topic.WIND, False
        elif (topic := TOPICS.get(token.text)) and self._names(topic):
            self._topic, self._told = topic, False
        self._word()

    def _names(self, topic: Topic) -> bool:
        previous, following = self._before(self._at - 1), self._peek(1).text
        if topic in (Topic.HIGH, Topic.LOW):
            return previous != "as" and following not in NAMES_NO_TEMPERATURE
        if topic is Topic.TEMPERATURE:
            if previous in NOT_AIR:
                self._topic = Topic.FELT
                return False
            # "minimum temperature", "apparent temperature"
            return self._told or self._topic not in (Topic.HIGH, Topic.LOW, Topic.FELT)
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
        if self._joins(start):
            while self._take(*FILLERS):
                pass
            second = self._end()
        else:
            second = None
        if second is None:
            self._at = after
        else:
            other, unit_2, side_2 = second
            if side_2 == "below" and not side and span.low > 0:
                span = Span(-span.high, -span.low)
            unit = unit_2 or unit
            span = Span(min(span.low, other.low), max(span.high, other.high))
        return Reading(
            topic=self._said_of(unit),
            span=span,
            unit=self._level(start, unit),
            joined=second is not None,
            bound=self._bound(start),
            phase=self._phase,
        )

    def _end(self) -> tuple[Span, Unit | None, str] | None:
        """Read one end of a quantity: its span, its unit, and `below` or `above` if that is said."""
        start = self._at
        token = self._peek()
        if token.kind is Kind.NUMBER:
            if self._before(start - 1) in MONTHS:
                return None
            self._at += 1
            span = Span(token.value, token.value)
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
            self._take("zero")
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
        return self._take("to", "-")

    def _bound(self, start: int) -> bool:
        if self._peek().text == "or" and self._peek(1).text in ("less", "below", "under", "lower"):
            self._at += 2
            return True
        before = (self._before(start - 2), self._before(start - 1))
        return before in (("less", "than"), ("up", "to")) or before[1] in ("below", "under")

    def _said_of(self, unit: Unit | None) -> Topic | None:
        """Return the topic; a gust may be named after its number: `40 mph gusts`."""
        if unit in _SPEEDS and self._peek().text in ("gust", "gusts"):
            following = self._peek(1)
            if following.kind is not Kind.NUMBER and following.text not in FILLERS | {"to", "up"}:
                return Topic.GUST
        return self._topic

    def _level(self, start: int, unit: Unit | None) -> Unit | None:
        """Return the unit; `OTHER` for a difference: `5 degrees above normal`, `falling by 10 degrees`."""
        following = self._peek().text
        if following in ("above", "below"):
            difference = self._peek(1).text in NOT_A_LEVEL
        else:
            difference = unit in _DEGREES and following in NOT_A_LEVEL
        return Unit.OTHER if difference or self._before(start - 1) == "by" else unit
