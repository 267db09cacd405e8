"""Reads the span of a quantity: its ends, its unit, and how they are joined.

    span = end [("to" | "-" | "or" | "and", after "between") end]
    end  = number [unit] ["above" | "below" ["zero"]] | [part ["to" part]] decade [unit]
    part = "low" | "lower" | "mid" | "middle" | "high" | "upper"

Words such as `near` before an end change nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import copysign

from trainable.weather.extract.tokens import Kind, Token, Unit
from trainable.weather.extract.vocabulary import CHANCES, FILLERS, MONTHS, NORMS, NOT_A_LEVEL, PARTS

_NEAR = 5
"""How many tokens away a word is looked for that belongs to a number."""


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
class Measure:
    """A span in a text.

    Attributes:
        unit: `None` for bare numbers.
        joint: the word or dash between two ends; `None` where there is one end.
        bound: whether only the upper end is stated: `less than 8`, `8 or less`, `up to 8`.
    """

    span: Span
    unit: Unit | None
    joint: str | None
    bound: bool


class Cursor:
    """A place among the tokens of a text.

    Attributes:
        tokens: of the text, with two ends of a sentence after them.
        at: the place.
    """

    def __init__(self, found: Sequence[Token]) -> None:
        self.tokens = [*found, Token(Kind.END, "."), Token(Kind.END, ".")]
        self.at = 0

    @property
    def done(self) -> bool:
        """Whether the place is behind the text."""
        return self.at >= len(self.tokens) - 1

    def peek(self, ahead: int = 0) -> Token:
        """Return the token so far ahead, at most the last one."""
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)]

    def before(self, place: int) -> str:
        """Return the text of the token at a place; there is none before the first one."""
        return self.tokens[place].text if place >= 0 else ""

    def take(self, *texts: str) -> bool:
        """Move on if the token is one of these."""
        if self.peek().text not in texts:
            return False
        self.at += 1
        return True

    def measure(self) -> Measure | None:
        """Read the measure at this place and move behind it; return `None`, and stay, where there is none."""
        start = self.at
        if ratio := self._ratio():
            return ratio
        first = self._end()
        if first is None:
            return None
        span, unit, side = first
        after = self.at
        joint: str | None = self.peek().text
        second = None
        if self._joins(start):
            # After a dash or "or", all but a number begins another clause: "40 – about 5 degrees warmer".
            while joint not in ("-", "or") and self.take(*FILLERS):
                pass
            second = self._end()
            if joint in ("-", "or") and second is not None and not self._continues(unit, second[1]):
                second = None
        if second is None:
            self.at, joint = after, None
        else:
            other, unit_2, side_2 = second
            if side_2 == "below" and not side and span.low > 0:
                span = Span(-span.high, -span.low)
            unit = unit_2 or unit
            span = Span(min(span.low, other.low), max(span.high, other.high))
        return Measure(span, unit, joint, self._bound(start))

    def compares(self) -> bool:
        """Whether `above` or `below` is at this place, and then what it compares with: `the July average`."""
        if self.peek().text not in ("above", "below"):
            return False
        ahead = 1
        while ahead < _NEAR and self.peek(ahead).kind is Kind.WORD and self.peek(ahead).text not in NORMS:
            ahead += 1
        return self.peek(1).text in NOT_A_LEVEL or self.peek(ahead).text in NORMS

    def _ratio(self) -> Measure | None:
        """Read `one in five`, said of a chance, as a percentage."""
        part, word, whole, following = (self.peek(ahead) for ahead in range(4))
        if (part.kind, word.text, whole.kind) != (Kind.NUMBER, "in", Kind.NUMBER):
            return None
        # "a one in five chance", "the chance of rain is one in five"
        near = {following.text, *(token.text for token in self.tokens[max(0, self.at - _NEAR) : self.at])}
        if CHANCES.isdisjoint(near) or not 0 <= part.value <= whole.value or not whole.value:
            return None
        self.at += 3
        percent = 100 * part.value / whole.value
        return Measure(Span(percent, percent), Unit.PERCENT, None, False)

    def _end(self) -> tuple[Span, Unit | None, str] | None:
        """Read one end: its span, its unit, and `below` or `above` if that is said."""
        start = self.at
        token = self.peek()
        if token.kind is Kind.NUMBER:
            if self._is_date(start):
                return None
            self.at += 1
            span = Span(token.value, token.value)
        else:
            parts = self._parts()
            token = self.peek()
            if token.kind is not Kind.DECADE:
                self.at = start
                return None
            self.at += 1
            ends = [token.value + copysign(digit, token.value) for digit in parts]
            span = Span(min(ends), max(ends))
        unit = self.peek().unit
        self.at += unit is not None
        side = ""
        if self.peek().text in ("below", "above") and not self.compares():
            side = self.peek().text
            self.at += 1
            if self.take("zero"):
                unit = unit or Unit.DEGREE
            if side == "below" and span.high > 0:
                span = Span(-span.high, -span.low)
        return span, unit, side

    def _parts(self) -> tuple[int, int]:
        """Read the part of a decade; it is all of the decade if none is stated."""
        digits: list[int] = []
        while self.peek().text in PARTS:
            digits += PARTS[self.peek().text]
            self.at += 1
            # "mid to upper 30s", "mid-30s", "upper single digits"
            self.take("to", "-")
        return (min(digits), max(digits)) if digits else (0, 9)

    def _joins(self, start: int) -> bool:
        if self.peek().text == "and":
            if self.tokens[self.at - 1].kind is self.peek(1).kind is Kind.DECADE:
                return self.take("and")
            while self.before(start - 1) in FILLERS - {"between"}:
                start -= 1
            return self.before(start - 1) == "between" and self.take("and")
        if self.before(start - 1) == "from":
            # "from 18 in the north to 25 in the south"
            ahead = 0
            while ahead < 4 and self.peek(ahead).kind is Kind.WORD and self.peek(ahead).text != "to":
                ahead += 1
            if self.peek(ahead).text == "to" and self.peek(ahead + 1).kind is Kind.NUMBER:
                self.at += ahead
        if self.before(start - 1) == "to" and self.peek(1).kind is Kind.NUMBER and self.take("from"):
            return True
        return self.take("to", "-") or (self.peek(1).kind is Kind.NUMBER and self.take("or"))

    def _continues(self, first: Unit | None, second: Unit | None) -> bool:
        """Whether the second end of a range is in the unit of its first, and no difference."""
        same = first is None or second is None or first == second or Unit.DEGREE in (first, second)
        return same and self.peek().text not in NOT_A_LEVEL | NORMS

    def _is_date(self, place: int) -> bool:
        """Whether a number is that of a day: `March 12`, `12 March`, `on 3 May`."""
        following = self.peek(1).text
        if self.before(place - 1) in MONTHS:
            return True
        # "Winds of 20 may gust"
        return following in MONTHS and (following != "may" or self.before(place - 1) == "on")

    def _bound(self, start: int) -> bool:
        if self.peek().text == "or" and self.peek(1).text in ("less", "below", "under", "lower"):
            self.at += 2
            return True
        before = (self.before(start - 2), self.before(start - 1))
        if before == ("more", "than") or before[1] == "exceeding":
            return not {"no", "not"}.isdisjoint((before[0], self.before(start - 3)))
        return before in (("less", "than"), ("up", "to"), ("at", "most")) or before[1] in ("below", "under")
