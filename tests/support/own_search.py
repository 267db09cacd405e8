"""A sampler and a scheduler of a user's own, as a configuration names them."""

import optuna
from optuna.samplers import BaseSampler
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from tune.search.samplers import SamplerKind, SamplerRequest
from tune.search.schedulers import SchedulerRequest


def sampler(request: SamplerRequest) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=request.seed)


tpe_without_start_up = SamplerKind(
    lambda request: optuna.samplers.TPESampler(n_startup_trials=1, seed=request.seed),
    reads_constraints=True,
    takes_conditions=True,
)


def scheduler(request: SchedulerRequest) -> TrialScheduler:
    """Stop the worse half at a quarter of the steps and at half of them."""
    return AsyncHyperBandScheduler(
        **request.judged,
        max_t=request.max_steps,
        grace_period=request.grace_steps,
        reduction_factor=2,
        stop_last_trials=False,
    )


not_callable = 7
