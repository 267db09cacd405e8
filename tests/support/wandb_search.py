"""A search as its W&B callback sees it: what the online tests of the callback share."""

import contextlib
import time
from collections.abc import Callable, Iterator

from tests.tune.callbacks.test_wandb import METRIC, FakeTrial
from trainable.config import WandbConfig
from trainable.records import MetricsRecord
from tune.callbacks.wandb import WandbLoggerCallback

CONFIG = WandbConfig(
    project="project",
    tags=["mine", "tpe"],
    notes="words",
    log_model="best",
    log_system_metrics=False,
    save_code=False,
)
Make = Callable[..., WandbLoggerCallback]


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Hold that what is inside takes no longer: Ray's loop waits for it."""
    begin = time.monotonic()
    yield
    took = time.monotonic() - begin
    assert took <= seconds, f"took {took:.1f} s, at most {seconds:g} s are allowed"


def rows(losses: list[float], first: int = 1) -> list[MetricsRecord]:
    return [MetricsRecord({"step": step, METRIC: loss}) for step, loss in enumerate(losses, start=first)]


def report(callback: WandbLoggerCallback, one: FakeTrial, told: list[MetricsRecord]) -> None:
    for record in told:
        one.last_result = record | {"trial_state": "running", "time_total_s": 3.0}
        callback.log_trial_result(int(record["step"]), one, one.last_result)
