"""How long a fused step and an evaluation take, measured on the engine itself; nothing is kept."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from trainable.config import TrialConfig
from trainable.engine.engine import Engine
from trainable.records import TrialState


@dataclass(frozen=True)
class Timing:
    """Seconds that trials which train together take.

    Attributes:
        step_s: for one optimizer step of each.
        evaluation_s: for the validation loss of each; generated texts are not in it.
        max_steps: optimizer steps of a full trial.
    """

    step_s: float
    evaluation_s: float
    max_steps: int


def measure(engine: Engine, configs: Sequence[TrialConfig], steps: int) -> Timing:
    """Train trials together for a few steps, evaluate them once, and let them leave.

    Args:
        engine: without trials of these names, `timing-0`, `timing-1`, ...
        configs: of the trials.
        steps: to average over; one more comes before, because a first step allocates.
    """
    tenants = [engine.join(f"timing-{place}", config) for place, config in enumerate(configs)]
    try:
        _advance(engine, [one.name for one in tenants], 1)
        began = time.perf_counter()
        _advance(engine, [one.name for one in tenants], 1 + steps)
        stepped = time.perf_counter()
        engine.evaluate([one.name for one in tenants])
        ended = time.perf_counter()
        taken = max(1, max(one.step for one in tenants) - 1)
        return Timing((stepped - began) / taken, ended - stepped, max(one.max_steps for one in tenants))
    finally:
        for one in tenants:
            engine.leave(one.name)


def _advance(engine: Engine, names: Sequence[str], target: int) -> None:
    while behind := [
        name
        for name in names
        if engine.tenant(name).state is TrialState.RUNNING and engine.tenant(name).step < target
    ]:
        engine.step(behind)
