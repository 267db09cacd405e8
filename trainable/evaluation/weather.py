"""How right a forecast text is about the weather, beside its reference.

What only one of the two states is never dropped and never scored as no error: it is counted in a coverage,
and an accuracy counts it as wrong.
"""

from collections.abc import Sequence

from trainable import records
from trainable.evaluation.extract import precipitation, temperatures, wind

TEMPERATURE_TOLERANCE_C = 3.0
"""A temperature is right within this."""


def weather_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return errors, accuracies and coverages over all quantities that the references state.

    `weather/temperature_mae` (°C) and `weather/wind_speed_mae` (km/h): mean |prediction - reference| over the
    quantities that both state, highs with highs and lows with lows; absent where nothing can be compared.
    `weather/temperature_accuracy`: share of the references' temperatures that the prediction states within
    3 °C. `weather/precipitation_accuracy`: share of texts with the references' verdict, wet or dry, and one
    of its kinds. `weather/*_coverage`: share of the references' quantities that the prediction states. All
    but the errors are in [0, 1], and absent where no reference states the quantity.
    """
    heat: list[float | None] = []
    breeze: list[float | None] = []
    verdicts: list[bool | None] = []
    for prediction, reference in zip(predictions, references, strict=True):
        heat += _temperature_errors(prediction, reference)
        (stated, _), (said, _) = wind(reference), wind(prediction)
        if stated is not None:
            breeze.append(None if said is None else abs(said - stated))
        if (truth := precipitation(reference)) is not None:
            claim = precipitation(prediction)
            right = claim is not None and bool(claim) == bool(truth) and (not truth or bool(claim & truth))
            verdicts.append(None if claim is None else right)
    found: dict[str, float] = {}
    if heat:
        close = [error is not None and error <= TEMPERATURE_TOLERANCE_C for error in heat]
        found[records.WEATHER_TEMPERATURE_ACCURACY] = sum(close) / len(close)
    if verdicts:
        found[records.WEATHER_PRECIPITATION_ACCURACY] = sum(map(bool, verdicts)) / len(verdicts)
        found[records.WEATHER_PRECIPITATION_COVERAGE] = _coverage(verdicts)
    for errors, error_key, coverage_key in (
        (heat, records.WEATHER_TEMPERATURE_MAE, records.WEATHER_TEMPERATURE_COVERAGE),
        (breeze, records.WEATHER_WIND_MAE, records.WEATHER_WIND_COVERAGE),
    ):
        compared = [error for error in errors if error is not None]
        if errors:
            found[coverage_key] = _coverage(errors)
        if compared:
            found[error_key] = sum(compared) / len(compared)
    return found


def _temperature_errors(prediction: str, reference: str) -> list[float | None]:
    """One entry for each temperature of the reference: the error, or `None` where the prediction has none."""
    said, stated = temperatures(prediction), temperatures(reference)
    pairs = [(said.high, stated.high), (said.low, stated.low)]
    loose = [value for value in (said.high, said.low, *said.other) if value is not None]
    errors = [None if a is None else abs(a - b) for a, b in pairs if b is not None]
    errors += [min((abs(a - b) for a in loose), default=None) for b in stated.other]
    return errors


def _coverage(values: Sequence[object]) -> float:
    return sum(value is not None for value in values) / len(values)
