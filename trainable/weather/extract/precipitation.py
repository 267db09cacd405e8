"""Reads from forecast prose what falls, and how surely."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainable.weather.extract.quantities import readings
from trainable.weather.extract.tokens import Kind, Token, Unit, tokens
from trainable.weather.extract.vocabulary import (
    AMOUNTS,
    AUXILIARIES,
    DENIALS,
    DENIED_THROUGH,
    ENDINGS,
    FROZEN,
    KINDS,
    ON_THE_GROUND,
    SURE,
    SURENESS,
    Topic,
)


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

    A text is dry that denies precipitation (`no rain or snow`, `dry`), tells that it ends (`rain ending`), or
    gives it a chance of 0 %. A chance without a number follows from the words (the usage of the US National
    Weather Service): 10 % for flurries and sprinkles, 20 for slight or isolated, 40 for chance or scattered,
    65 for likely or numerous, 90 for the unqualified; the surest of several counts.
    """
    found = tokens(text)
    stated = [reading for reading in readings(text) if reading.unit is Unit.PERCENT]
    chances = [r.span.middle for r in stated if r.topic not in (Topic.OTHER, Topic.FELT)]
    denied = _denied(found)
    named = dict(_named(found))
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
        previous, following = _text(found, place - 1), _text(found, place + 1)
        if (previous, token.text) in FROZEN:
            yield place, "ice"
        elif (kind := KINDS.get(token.text)) is None or following in ON_THE_GROUND or previous == "blowing":
            continue
        elif token.text in ("shower", "showers") and previous in KINDS:
            yield place, KINDS[previous]
        else:
            yield place, kind


def _is_amount(found: Sequence[Token], place: int) -> bool:
    return bool({_text(found, place), _text(found, place + 1)} & AMOUNTS)


def _denied(found: Sequence[Token]) -> set[int]:
    """Return the places of names that are denied, or said to end."""
    denied: set[int] = set()
    for place, token in enumerate(found):
        zero_percent = (
            token.kind is Kind.NUMBER and token.value == 0 and _text(found, place + 1) in ("%", "percent")
        )
        if token.text in DENIALS or zero_percent:
            denied |= set(_run(found, place + 1))
    for place, _ in _named(found):
        after = place + 1
        while _text(found, after) in AUXILIARIES:
            after += 1
        if _text(found, after) in ENDINGS:
            denied |= set(_back(found, place))
    return denied


def _run(found: Sequence[Token], start: int) -> Iterator[int]:
    """Yield places as long as a denial reaches: over names, `or`, and words that change nothing."""
    for place in range(start, len(found)):
        text = found[place].text
        if text == ",":
            rest = {found[later].text for later in _reach(found, place + 1)}
            if not rest & {"or", "nor"}:
                return
        elif not (text in DENIED_THROUGH or text in KINDS):
            return
        yield place


def _reach(found: Sequence[Token], start: int) -> Iterator[int]:
    for place in range(start, len(found)):
        if not (
            found[place].text in DENIED_THROUGH or found[place].text in KINDS or found[place].text == ","
        ):
            return
        yield place


def _back(found: Sequence[Token], place: int) -> Iterator[int]:
    """Yield the places of the names joined to one: in `rain and snow ending` both end."""
    while place >= 0 and (found[place].text in KINDS or found[place].text in ("and", "or", "freezing")):
        yield place
        place -= 1


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
