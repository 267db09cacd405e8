"""Reads from forecast prose what falls, and how surely."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from trainable.weather.extract.quantities import readings
from trainable.weather.extract.tokens import Kind, Token, Unit, tokens
from trainable.weather.extract.vocabulary import (
    ABSENCES,
    AMOUNTS,
    BOUNDARIES,
    CANCELED,
    COVERED,
    DENIALS,
    DENY_NOTHING_BEFORE,
    DENYING_PAIRS,
    ELSEWHERE,
    ENDING_PAIRS,
    ENDINGS,
    FROZEN,
    GROUND,
    KINDS,
    LYING,
    NOTICES,
    ON_THE_GROUND,
    PERIODS,
    STAYS,
    STOPS,
    SURE,
    SURENESS,
    TIMES,
    WARNINGS,
    Topic,
    direction,
)

_PERCENT = ("%", "percent", "per cent")
_NAMES = frozenset({*KINDS, "freezing", "ice"})


@dataclass(frozen=True)
class Precipitation:
    """What a text says of precipitation.

    Attributes:
        kinds: of `rain`, `snow`, `ice` and `thunder`, those that fall; empty for a wet text that names none.
        chance: in percent.
    """

    wet: bool
    kinds: frozenset[str] = frozenset()
    chance: float = 0.0


def precipitation(text: str) -> Precipitation | None:
    """Return whether, what and how surely something falls; `None` where a text says nothing of it.

    A text is dry that denies precipitation (`no rain or snow`, `rain holds off`, `dry`), says that it ends
    (`rain ending`; what ends at a named time fell until then), or gives it a chance of 0 %. Snow that lies on
    the ground, watches and canceled warnings are no precipitation.

    A chance without a number follows from the words (the usage of the US National Weather Service): 10 % for
    flurries and sprinkles, 20 for slight or isolated, 40 for chance or scattered, 65 for likely or numerous,
    90 for the unqualified; the surest of several counts.
    """
    found = tokens(text)
    stated = [reading for reading in readings(text) if reading.unit is Unit.PERCENT]
    chances = [r.span.middle for r in stated if r.topic not in (Topic.OTHER, Topic.FELT)]
    named = dict(_named(found))
    denied = _denied(found, named)
    falls = {place: kind for place, kind in named.items() if place not in denied}
    # "Sleet likely. Rainfall near 1 inch." is no rain; "Heavy rainfall." is.
    direct = {kind for place, kind in falls.items() if not _is_amount(found, place)}
    kinds = direct if direct - {""} else set(falls.values())
    if kinds and (not chances or max(chances) > 0):
        chance = max(chances) if chances else _sureness(found, sorted(falls))
        return Precipitation(wet=True, kinds=frozenset(kinds - {""}), chance=chance)
    if named or any(token.text == "dry" for token in found):
        return Precipitation(wet=False)
    return None


def _named(found: Sequence[Token]) -> Iterator[tuple[int, str]]:
    """Yield the places at which something that falls is named, and its kind."""
    for place, token in enumerate(found):
        previous = _text(found, place - 1)
        if (previous, token.text) in FROZEN:
            yield place, "ice"
        elif (kind := KINDS.get(token.text)) is None or _is_over(found, place) or _is_notice(found, place):
            continue
        elif token.text in ("shower", "showers") and previous in KINDS:
            yield place, KINDS[previous]
        else:
            yield place, kind


def _is_over(found: Sequence[Token], place: int) -> bool:
    """Whether what is named has fallen: it lies on the ground, or its time is past."""
    return _lies(found, place) or _is_past(found, place)


def _is_past(found: Sequence[Token], place: int) -> bool:
    """Whether the time of a name is past: `last night's rain`, `hail fell last week`, `rain two days ago`."""
    if _text(found, place - 2) == "last" and _text(found, place - 1).endswith("'s"):
        return True
    for at in range(place + 1, len(found)):
        if _ends_clause(found, at):
            return False
        text = found[at].text
        past = text in ("yesterday", "ago") or (text == "last" and _text(found, at + 1) in PERIODS)
        if past and _text(found, at - 1) not in ("than", "from", "since"):
            return True
    return False


def _lies(found: Sequence[Token], place: int) -> bool:
    """Whether what is named is on the ground: `snow depth`, `packed snow`, `snow on the roads`."""
    if found[place].text == "wet" and {_text(found, place - 2), _text(found, place + 1)} & GROUND:
        return True
    if _text(found, place + 1) in ON_THE_GROUND or _text(found, place - 1) in LYING:
        return True
    if _text(found, place - 2) in COVERED and _text(found, place - 1) in ("in", "with"):
        return True
    ahead = [token.text for token in islice(_clause(found, place + 1), 5)]
    return "on" in ahead[:3] and not GROUND.isdisjoint(ahead)


def _is_notice(found: Sequence[Token], place: int) -> bool:
    """Whether a name is that of a watch, or of a warning that is canceled."""
    ahead = [token.text for token in _clause(found, place + 1)]
    if not NOTICES.isdisjoint(ahead[:2]):
        return True
    return not WARNINGS.isdisjoint(ahead[:2]) and not CANCELED.isdisjoint(ahead)


def _is_amount(found: Sequence[Token], place: int) -> bool:
    return bool({_text(found, place), _text(found, place + 1)} & AMOUNTS)


def _denied(found: Sequence[Token], names: Collection[int]) -> set[int]:
    """Return the places of names that are denied, or said to end.

    A denial reaches to the end of its clause, over any words; a second one in the clause takes it back (`no
    break from the rain`).
    """
    denied: set[int] = set()
    negated = False
    for place, token in enumerate(found):
        if _ends_clause(found, place):
            negated = False
        elif _denies(found, place):
            negated = not negated or token.text == "nor"
        if place in names and negated != _ends(found, place):
            denied.add(place)
    return denied


def _denies(found: Sequence[Token], place: int) -> bool:
    token, following = found[place], _text(found, place + 1)
    if token.kind is Kind.NUMBER:
        return token.value == 0 and following in (*_PERCENT, "chance", "chances", "risk")
    if (token.text, following) in DENYING_PAIRS or (token.text in STOPS and following in KINDS):
        return True
    if (following, _text(found, place + 2)) == ("more", "than"):
        return False
    return (token.text in DENIALS or token.text.endswith("n't")) and following not in DENY_NOTHING_BEFORE


def _ends(found: Sequence[Token], place: int) -> bool:
    """Whether the rest of the clause says that a name does not fall: `is not expected`, `stays away`."""
    negated = False
    for at in range(place + 1, len(found)):
        token, previous = found[at], _text(found, at - 1)
        if token.text in ("until", "before") or (
            token.text in KINDS and previous not in ("and", "or", *_NAMES)
        ):
            return False
        if _ends_clause(found, at):
            break
        if token.text in ABSENCES and (token.text, _text(found, at + 1)) != ("away", "from"):
            return not negated and all(later.text != "until" for later in _clause(found, at + 1))
        if token.text in STAYS and _is_elsewhere(found, at + 1):
            return not negated
        if token.text in ENDINGS or (token.text, _text(found, at + 1)) in ENDING_PAIRS:
            timed = any(later.text in TIMES or later.unit is Unit.OTHER for later in _clause(found, at + 1))
            return not negated and (not timed or previous in ("has", "have"))
        if _denies(found, at):
            negated = not negated
    return negated


def _is_elsewhere(found: Sequence[Token], start: int) -> bool:
    """Whether words begin with another place: `offshore`, `well south of the city`, `to the north`."""
    place = start
    while _text(found, place) in ("well", "just", "mostly", "mainly", "to", "the", "be"):
        place += 1
    if direction(_text(found, place)):
        return _text(found, place + 1) == "of" or _text(found, place - 2) == "to"
    return _text(found, place) in ELSEWHERE


def _ends_clause(found: Sequence[Token], place: int) -> bool:
    """Whether a denial ends at a place: at a comma or an `and` that joins no names, `but`, a full stop."""
    token, following = found[place], _text(found, place + 1)
    if token.kind is Kind.COMMA:
        # "No rain, snow or sleet", but "no snow, showers at night"
        rest = {later.text for later in _list(found, place + 1)}
        return following not in _NAMES or not rest & {"or", "nor"}
    if token.text == "and":
        return _text(found, place - 1) not in KINDS or following not in _NAMES
    return token.kind in (Kind.END, Kind.BRACKET, Kind.DASH) or token.text in BOUNDARIES


def _list(found: Sequence[Token], start: int) -> Iterator[Token]:
    for place in range(start, len(found)):
        token = found[place]
        if token.text not in _NAMES and token.kind is not Kind.COMMA and token.text not in ("or", "nor"):
            return
        yield token


def _clause(found: Sequence[Token], start: int) -> Iterator[Token]:
    """Yield the tokens from a place to the next comma or end of a sentence."""
    for place in range(start, len(found)):
        if found[place].kind in (Kind.COMMA, Kind.END):
            return
        yield found[place]


def _sureness(found: Sequence[Token], places: Sequence[int]) -> float:
    """Return the chance in percent that words give, of the surest of the names at these places."""
    clauses = _clauses(found)
    told: dict[int, list[float]] = {}
    for clause, token in zip(clauses, found, strict=True):
        if token.text in SURENESS:
            told.setdefault(clause, []).append(SURENESS[token.text])
    return max(min(told.get(clauses[place], [SURE])) for place in places)


def _clauses(found: Sequence[Token]) -> list[int]:
    """Number the clause that each token is in; the qualifiers of a clause hold for all its names."""
    numbers, number = [], 0
    for place, token in enumerate(found):
        lists = token.kind is Kind.COMMA and _text(found, place + 1) in KINDS
        if (token.kind in (Kind.END, Kind.COMMA) and not lists) or token.text in ("then", "possibly"):
            number += 1
        numbers.append(number)
    return numbers


def _text(found: Sequence[Token], place: int) -> str:
    return found[place].text if 0 <= place < len(found) else ""
