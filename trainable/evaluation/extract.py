"""Reads quantities from forecast prose: temperatures in °C, wind in km/h, and what falls.

The forecasters' vocabulary is that of the US National Weather Service: "lower 50s" is 50 to 54, "mid 70s" 73
to 77, "upper 30s" 36 to 39, "near 45" a band of 1 around it, "calm" no wind. A bare number has the unit that
the text uses elsewhere; a text that speaks of mph is in °F, any other in °C.
"""

import re
from dataclasses import dataclass

_MINUS = str.maketrans({"−": "-", "–": "-", "º": "°"})
_NUMBER = r"(?:minus |-)?\d+(?:\.\d+)?(?!\s*%|\d)"
_DEGREE = r"(?:\s*(?:°\s*[CF]\b|°|degrees?(?:\s*(?:C|F|Celsius|Fahrenheit)\b)?|[CF]\b))"
_NOT_TEMPERATURE = (
    r"wind chills?[^.;]*|heat index[^.;]*|dew ?points?[^.;]*|UV index[^.;]*|"
    r"\d+\s*(?:percent|%|am\b|pm\b|mm\b|cm\b|inch|hPa|hours?\b|o'clock)|\d{1,2}:\d{2}"
)
_SPEED = r"(?:km/h|kmh|kph|mph|knots?|kts?|m/s)"
_TO_KMH = {"km": 1.0, "kp": 1.0, "mp": 1.609344, "kn": 1.852, "kt": 1.852, "m/": 3.6}
_DECADE = re.compile(r"\b(lower|low|mid(?:dle)?|upper|high)[\s-]+(minus )?(\d+)s\b")
_BANDS = {"low": (0, 4), "mid": (3, 7), "upp": (6, 9), "hig": (6, 9)}
_PAIR = re.compile(rf"({_NUMBER}){_DEGREE}?\s*(?:to|and|-)\s*({_NUMBER})({_DEGREE})?", re.IGNORECASE)
_ONE = re.compile(rf"({_NUMBER})({_DEGREE})?(\s+below(?: zero)?)?", re.IGNORECASE)
_WIND_RANGE = re.compile(rf"(\d+)(?:\s*{_SPEED})?(?:\s*(?:to|and|-)\s*(\d+))?\s*({_SPEED})", re.IGNORECASE)
_GUST = re.compile(rf"gust\w*[^.;\d]*?(\d+)(?:\s*(?:to|-)\s*(\d+))?\s*({_SPEED})?", re.IGNORECASE)
_WET = {
    "snow": r"\bsnow\w*|\bflurr\w+|\bblizzard",
    "ice": r"\bsleet|freezing (?:rain|drizzle)|\bhail|ice pellets|wintry mix",
    "thunder": r"thunder\w*",
    "rain": r"\brain\w*|\bshowers?|\bdrizzle|\bprecipitation",
}
_DRY = re.compile(
    r"\b(?:no|without|little or no|not any)\s+(?:significant |measurable )?"
    r"(?:precipitation|rain|snow|showers?|sleet|thunderstorms?)(?: expected)?|"
    r"\b(?:rain|snow|showers?|sleet|precipitation|thunderstorms?)\s+(?:is |are )?(?:ending|tapering off)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Temperatures:
    """Stated temperatures in °C: high, low, and those that are said to be neither."""

    high: float | None = None
    low: float | None = None
    other: tuple[float, ...] = ()


def temperatures(text: str) -> Temperatures:
    """Return the temperatures that a text states; a range that is not high and low, its middle."""
    text = text.translate(_MINUS)
    fahrenheit = _is_fahrenheit(text)
    high = low = None
    other: list[float] = []
    plain = re.sub(_NOT_TEMPERATURE, " ", text, flags=re.IGNORECASE)
    for clause in re.split(r"[.;](?!\d)|,|\band (?=lows?|highs?)", _without_wind(plain)):
        kind = _kind(clause)
        values = _values(clause, stated=kind is not None)
        converted = [round((v - 32) * 5 / 9, 2) if fahrenheit else v for v in values]
        if not converted:
            continue
        if kind == "high" and high is None:
            high = sum(converted) / len(converted)
        elif kind == "low" and low is None:
            low = sum(converted) / len(converted)
        elif kind == "range" and len(converted) > 1:
            low, high = min(converted), max(converted)
        else:
            other += converted
    return Temperatures(high, low, tuple(other))


def wind(text: str) -> tuple[float | None, float | None]:
    """Return sustained wind and gusts in km/h; a range stands for its middle, "calm" for 0."""
    text = text.translate(_MINUS)
    gust = None
    units = re.search(_SPEED, text, re.IGNORECASE)
    if found := _GUST.search(text):
        unit = found[3] or (units[0] if units else "km/h")
        gust = _kmh(_middle(found[1], found[2]), unit)
        text = text[: found.start()] + text[found.end() :]
    speeds = [_kmh(_middle(one, two), unit) for one, two, unit in _WIND_RANGE.findall(text)]
    if speeds:
        return sum(speeds) / len(speeds), gust
    if re.search(r"\bcalm\b", text, re.IGNORECASE):
        return 0.0, gust
    if re.search(r"\blight (?:and variable )?winds?\b|\bwinds?\b[^.]*\blight\b", text, re.IGNORECASE):
        return _kmh(2.5, "mph"), gust
    return None, gust


def precipitation(text: str) -> frozenset[str] | None:
    """Return the kinds that a text says fall; empty for dry, `None` where it says nothing of it."""
    left = _DRY.sub(" ", text)
    kinds = frozenset(kind for kind, words in _WET.items() if re.search(words, left, re.IGNORECASE))
    if kinds:
        return kinds
    return frozenset() if left != text or re.search(r"\bdry\b", text, re.IGNORECASE) else None


def _is_fahrenheit(text: str) -> bool:
    if re.search(r"°\s*F\b|\d\s*F\b|Fahrenheit", text):
        return True
    if re.search(r"°\s*C\b|\d\s*C\b|Celsius", text):
        return False
    return re.search(r"\bmph\b", text, re.IGNORECASE) is not None


def _kind(clause: str) -> str | None:
    if re.search(r"\bhighs?\b|\bmaximum\b|\bwarmest\b", clause, re.IGNORECASE):
        return "high"
    if re.search(r"\blows?\b|\bminimum\b|\bcoldest\b", clause, re.IGNORECASE):
        return "low"
    return "range" if re.search(r"\btemperatures?\b|\btemps?\b", clause, re.IGNORECASE) else None


def _values(clause: str, *, stated: bool) -> list[float]:
    """Numbers of a clause that are temperatures: all where it speaks of them, else those with a degree."""
    if found := _DECADE.search(clause):
        low, high = _BANDS[found[1][:3]]
        decade = int(found[3]) * (-1 if found[2] else 1)
        return [decade + (low + high) / 2]
    if (pair := _PAIR.search(clause)) and (stated or pair[3]):
        return [_signed(pair[1]), _signed(pair[2])]
    one = _ONE.search(clause)
    if one and (stated or (one[2] and "°" in one[2])):
        return [-abs(_signed(one[1])) if one[3] else _signed(one[1])]
    return []


def _without_wind(text: str) -> str:
    return re.sub(rf"[^.;,]*\d+\s*{_SPEED}", " ", text, flags=re.IGNORECASE)


def _signed(number: str) -> float:
    return -float(number[6:]) if number.lower().startswith("minus ") else float(number)


def _middle(one: str, two: str) -> float:
    return (float(one) + float(two)) / 2 if two else float(one)


def _kmh(speed: float, unit: str) -> float:
    return speed * _TO_KMH[unit.lower()[:2]]
