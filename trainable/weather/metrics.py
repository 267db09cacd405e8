"""How accurate a forecast text is about the weather, compared with its reference.

A quantity that only one of the two states is neither ignored nor scored as correct: it lowers a coverage,
and counts as wrong in an accuracy. So a text gains nothing by saying nothing, by inventing rain that the
reference does not mention, or by listing many numbers of which one will fit.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product

from trainable.evaluation.catalogue import Metric, declares
from trainable.weather.extract import (
    Precipitation,
    Temperatures,
    Unit,
    precipitation,
    speed_unit,
    temperature_unit,
    temperatures,
    wind,
)

TEMPERATURE_MAE = "weather/temperature_mae"
TEMPERATURE_ACCURACY = "weather/temperature_accuracy"
TEMPERATURE_COVERAGE = "weather/temperature_coverage"
WIND_MAE = "weather/wind_speed_mae"
WIND_COVERAGE = "weather/wind_speed_coverage"
GUST_MAE = "weather/wind_gust_mae"
GUST_COVERAGE = "weather/wind_gust_coverage"
CHANCE_MAE = "weather/precipitation_chance_mae"
PRECIPITATION_ACCURACY = "weather/precipitation_accuracy"
PRECIPITATION_COVERAGE = "weather/precipitation_coverage"

TEMPERATURE_TOLERANCE_C = 3.0
"""A temperature with at most this error is correct."""

_SAYS_LITTLE = (
    "only quantities that both texts state are compared, so a text that states little has few errors"
)
_SAYS_ANYTHING = "a quantity counts as covered whatever its value is"

_Errors = list[float | None]
"""Absolute errors; `None` for what only one of the two texts states."""


@declares(
    Metric(TEMPERATURE_MAE, "min", "°C", gameable_because=_SAYS_LITTLE),
    Metric(TEMPERATURE_ACCURACY, "max", ""),
    Metric(TEMPERATURE_COVERAGE, "max", "", gameable_because=_SAYS_ANYTHING),
    Metric(WIND_MAE, "min", "km/h", gameable_because=_SAYS_LITTLE),
    Metric(WIND_COVERAGE, "max", "", gameable_because=_SAYS_ANYTHING),
    Metric(GUST_MAE, "min", "km/h", gameable_because=_SAYS_LITTLE),
    Metric(GUST_COVERAGE, "max", "", gameable_because=_SAYS_ANYTHING),
    Metric(CHANCE_MAE, "min", "percentage points", gameable_because=_SAYS_LITTLE),
    Metric(PRECIPITATION_ACCURACY, "max", ""),
    Metric(PRECIPITATION_COVERAGE, "max", "", gameable_because=_SAYS_ANYTHING),
)
def weather_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return errors, accuracies and coverages of the quantities that `trainable.weather.extract` reads.

    Over all rows, with p stated by the prediction and r by its reference:

    - `weather/temperature_mae` (°C), `weather/wind_speed_mae` and `weather/wind_gust_mae` (km/h),
      `weather/precipitation_chance_mae` (percentage points): mean |p - r| of what both state, in [0, inf).
      Highs are compared with highs and lows with lows; other temperatures with the nearest that is left.
    - `weather/temperature_accuracy`, in [0, 1]: the share of the temperatures that either states of which
      |p - r| <= 3 °C.
    - `weather/precipitation_accuracy`, in [0, 1]: the share of the rows in which both mention precipitation
      and agree: both dry, or both wet with a kind in common if the reference names one. A row counts if the
      reference mentions precipitation, or the prediction is wet: a text that does not mention it is not wet.
    - `weather/*_coverage`, in [0, 1]: of the quantities that either states, the share that both state.

    A metric is absent where there is nothing to average. A number without a unit has the unit that its text
    gives elsewhere, else the reference's, else that of most references, else °C or km/h. Sources: the mean
    absolute error of Willmott and Matsuura 2005; the names and the tolerance of 3 °C are those of the Weather
    Forecasting LoRA project.
    """
    heat: _Errors = []
    breeze: _Errors = []
    gusts: _Errors = []
    chances: _Errors = []
    verdicts: list[bool] = []
    usual_heat = _most(map(temperature_unit, references)) or Unit.CELSIUS
    usual_speed = _most(map(speed_unit, references)) or Unit.KMH
    for prediction, reference in zip(predictions, references, strict=True):
        heat_unit = temperature_unit(reference) or usual_heat
        heat += _temperature_errors(temperatures(prediction, heat_unit), temperatures(reference, heat_unit))
        speed = speed_unit(reference) or usual_speed
        blown, stated = wind(prediction, speed), wind(reference, speed)
        breeze += _error(blown.speed, stated.speed)
        gusts += _error(blown.gust, stated.gust)
        claim, truth = precipitation(prediction), precipitation(reference)
        if truth is not None or (claim is not None and claim.wet):
            said = None if claim is None else claim.chance
            chances += _error(said, None if truth is None else truth.chance)
            verdicts.append(_agree(claim, truth))
    found: dict[str, float] = {}
    if heat:
        close = [error is not None and error <= TEMPERATURE_TOLERANCE_C for error in heat]
        found[TEMPERATURE_ACCURACY] = sum(close) / len(close)
    if verdicts:
        found[PRECIPITATION_ACCURACY] = sum(verdicts) / len(verdicts)
    for errors, mae_key, coverage_key in (
        (heat, TEMPERATURE_MAE, TEMPERATURE_COVERAGE),
        (breeze, WIND_MAE, WIND_COVERAGE),
        (gusts, GUST_MAE, GUST_COVERAGE),
        (chances, CHANCE_MAE, PRECIPITATION_COVERAGE),
    ):
        compared = [error for error in errors if error is not None]
        if errors:
            found[coverage_key] = len(compared) / len(errors)
        if compared:
            found[mae_key] = sum(compared) / len(compared)
    return found


def _most(units: Iterable[Unit | None]) -> Unit | None:
    counts = Counter(unit for unit in units if unit is not None)
    return counts.most_common(1)[0][0] if counts else None


def _error(said: float | None, stated: float | None) -> _Errors:
    if said is None or stated is None:
        return [] if said is stated else [None]
    return [abs(said - stated)]


def _agree(claim: Precipitation | None, truth: Precipitation | None) -> bool:
    if claim is None or truth is None or claim.wet != truth.wet:
        return False
    return not truth.kinds or bool(claim.kinds & truth.kinds)


def _temperature_errors(said: Temperatures, stated: Temperatures) -> _Errors:
    """Return one entry for each temperature that either states, each compared once."""
    errors: _Errors = []
    left: list[tuple[str, float]] = [("other", value) for value in said.other]
    wanted: list[tuple[str, float]] = [("other", value) for value in stated.other]
    for name, mine, theirs in (("high", said.high, stated.high), ("low", said.low, stated.low)):
        if mine is not None and theirs is not None:
            errors.append(abs(mine - theirs))
            continue
        left += [(name, mine)] if mine is not None else []
        wanted += [(name, theirs)] if theirs is not None else []
    # A high is never compared with a low; either may be with what is said to be neither.
    pairs = [(a, b) for a, b in product(left, wanted) if "other" in (a[0], b[0])]
    for a, b in sorted(pairs, key=lambda pair: abs(pair[0][1] - pair[1][1])):
        if a in left and b in wanted:
            errors.append(abs(a[1] - b[1]))
            left.remove(a)
            wanted.remove(b)
    return errors + [None] * (len(left) + len(wanted))
