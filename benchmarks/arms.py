"""The searches that are compared: this project's own searcher and schedulers, and its peers.

Syne Tune is among them where it is installed (`pip install syne-tune`).
"""

import datetime
import importlib.util
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from benchmarks.simulator import Search
from benchmarks.workloads import Params, Workload
from search_spaces import Space
from trainable.config import TrialConfig
from trainable.objective import Objective
from trainable.records import JUDGED
from tune.search.schedulers import NoController, PastTrial, make_scheduler
from tune.search.searcher import OptunaSearcher
from tune.sections import SearchConfig
from tune.store.study import StudyStore

_METRIC = "eval/loss"
_CONTROLLER: Any = NoController()
MANY = 100_000
"""More trials than any budget pays for."""


class _MemoryStudy(StudyStore):
    """The study without its file: a simulated search needs no durability."""

    def __init__(self, objective: Objective) -> None:
        super().__init__("memory", "simulated", objective)
        self._study = optuna.create_study(direction=objective.optuna_direction)


class Own(Search):
    """This project's searcher and scheduler."""

    def __init__(
        self,
        workload: Workload,
        seed: int,
        settings: Mapping[str, Any],
        study: StudyStore | None = None,
        trials: int = MANY,
    ) -> None:
        """Search a workload.

        Args:
            workload: the problem.
            seed: of the sampler.
            settings: of the `search` section.
            study: where trials are kept; `None`: in memory.
            trials: to try.
        """
        search = SearchConfig(**{"seed": seed, **settings})
        objective = Objective(_METRIC, "min")
        base = TrialConfig()
        space = Space.load(workload.space, base)
        study = _MemoryStudy(objective) if study is None else study
        self._searcher = OptunaSearcher(space, base, study, search, new_trials=trials)
        self._scheduler = make_scheduler(search, objective, workload.evaluations)
        self._objective = objective
        self._trials: dict[str, PastTrial] = {}

    def ask(self) -> tuple[str, Params] | None:
        """Ask the searcher."""
        trial_id = f"{len(self._trials):08d}"
        suggestion = self._searcher.suggest(trial_id)
        if not isinstance(suggestion, dict):
            return None
        self._trials[trial_id] = PastTrial(trial_id)
        self._scheduler.on_trial_add(_CONTROLLER, self._trials[trial_id])  # type: ignore[arg-type]
        return trial_id, suggestion["params"]

    def report(self, trial_id: str, evaluation: int, loss: float) -> bool:
        """Let the scheduler decide, and tell the searcher in Ray's order."""
        record = {"step": evaluation, "trial_state": "running", _METRIC: loss, "time_total_s": evaluation}
        record[JUDGED] = self._objective.judged(record)
        trial: Any = self._trials[trial_id]
        if self._scheduler.on_trial_result(_CONTROLLER, trial, record) == TrialScheduler.STOP:
            self._searcher.on_trial_complete(trial_id, record)
            return False
        self._searcher.on_trial_result(trial_id, record)
        return True

    def end(self, trial_id: str, evaluation: int, loss: float | None, state: str) -> None:
        """Report the end to both."""
        record = {"step": evaluation, "trial_state": state, "time_total_s": evaluation}
        if loss is not None:
            record[_METRIC] = loss
        record[JUDGED] = self._objective.judged(record)
        trial: Any = self._trials[trial_id]
        self._scheduler.on_trial_complete(_CONTROLLER, trial, record)
        self._searcher.on_trial_complete(trial_id, record)


class Stock(Search):
    """Ray's `OptunaSearch` with its `AsyncHyperBandScheduler`, as its documentation joins them."""

    def __init__(self, workload: Workload, seed: int, grace_ratio: float | None) -> None:
        """Search `workload`; `grace_ratio`: the share that each trial trains, `None`: Ray's default."""
        self._space = Space.load(workload.space, TrialConfig())
        self._names = {f"axis{place}": name for place, name in enumerate(self._space.distributions)}
        axes = {short: self._space.distributions[name] for short, name in self._names.items()}
        self._searcher = OptunaSearch(space=axes, metric="loss", mode="min", seed=seed)
        grace = {} if grace_ratio is None else {"grace_period": math.ceil(grace_ratio * workload.evaluations)}
        self._scheduler = AsyncHyperBandScheduler(
            metric="loss", mode="min", max_t=workload.evaluations, **grace
        )
        self._trials: dict[str, PastTrial] = {}

    def ask(self) -> tuple[str, Params] | None:
        """Ask `OptunaSearch`."""
        trial_id = f"{len(self._trials):08d}"
        drawn = self._searcher.suggest(trial_id)
        if not isinstance(drawn, dict) or drawn == Searcher.FINISHED:
            return None
        values = {name: drawn[short] for short, name in self._names.items()}
        self._trials[trial_id] = PastTrial(trial_id)
        self._scheduler.on_trial_add(_CONTROLLER, self._trials[trial_id])  # type: ignore[arg-type]
        return trial_id, self._space.resolve(lambda name, _: values[name]).params

    def report(self, trial_id: str, evaluation: int, loss: float) -> bool:
        """Let the scheduler decide, and tell the searcher in Ray's order."""
        record = {"training_iteration": evaluation, "loss": loss}
        trial: Any = self._trials[trial_id]
        if self._scheduler.on_trial_result(_CONTROLLER, trial, record) == TrialScheduler.STOP:
            self._searcher.on_trial_complete(trial_id, record)
            return False
        self._searcher.on_trial_result(trial_id, record)
        return True

    def end(self, trial_id: str, evaluation: int, loss: float | None, state: str) -> None:
        """Report the end; a trial that did not complete has raised an error."""
        trial: Any = self._trials[trial_id]
        if state != "completed":
            self._scheduler.on_trial_error(_CONTROLLER, trial)
            self._searcher.on_trial_complete(trial_id, error=True)
            return
        record = {"training_iteration": evaluation, "loss": loss}
        self._scheduler.on_trial_complete(_CONTROLLER, trial, record)
        self._searcher.on_trial_complete(trial_id, record)


class Plain(Search):
    """Optuna alone: a study with its default sampler and a pruner."""

    def __init__(self, workload: Workload, seed: int, pruner: BasePruner) -> None:
        """Search `workload`."""
        self._space = Space.load(workload.space, TrialConfig())
        sampler = optuna.samplers.TPESampler(seed=seed)
        self._study = optuna.create_study(sampler=sampler, pruner=pruner)
        self._trials: dict[str, optuna.Trial] = {}

    def ask(self) -> tuple[str, Params] | None:
        """Ask the study."""
        trial = self._study.ask()
        trial_id = f"{trial.number:08d}"
        self._trials[trial_id] = trial
        return trial_id, self._space.suggest(trial).params

    def report(self, trial_id: str, evaluation: int, loss: float) -> bool:
        """Report, and let the pruner decide."""
        trial = self._trials[trial_id]
        trial.report(loss, evaluation)
        if trial.should_prune():
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return False
        return True

    def end(self, trial_id: str, evaluation: int, loss: float | None, state: str) -> None:
        """Tell the study the value, or that the trial failed."""
        trial = self._trials[trial_id]
        if state != "completed":
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        trial.report(loss, evaluation)  # type: ignore[arg-type]
        self._study.tell(trial, loss)


class SyneTune(Search):
    """Syne Tune's BOHB: asynchronous successive halving with its defaults, and kernel density estimates."""

    def __init__(self, workload: Workload, seed: int) -> None:
        """Search `workload`."""
        logging.getLogger("syne_tune").setLevel(logging.ERROR)
        from syne_tune.optimizer.baselines import BOHB

        self._space = Space.load(workload.space, TrialConfig())
        axes = {name: _syne_axis(one) for name, one in self._space.distributions.items()}
        self._scheduler = BOHB(
            axes, metric="loss", time_attr="evaluation", max_t=workload.evaluations, random_seed=seed
        )
        self._trials: dict[str, Any] = {}

    def ask(self) -> tuple[str, Params] | None:
        """Ask the scheduler, which asks its searcher."""
        from syne_tune.backend.trial_status import Trial

        suggestion = self._scheduler.suggest()
        if suggestion is None:
            return None
        number = len(self._trials)
        trial = Trial(number, suggestion.config, datetime.datetime.now())
        self._trials[str(number)] = trial
        self._scheduler.on_trial_add(trial)
        return str(number), self._space.resolve(lambda name, _: trial.config[name]).params

    def report(self, trial_id: str, evaluation: int, loss: float) -> bool:
        """Let the scheduler decide."""
        from syne_tune.optimizer.scheduler import SchedulerDecision

        trial = self._trials[trial_id]
        if self._scheduler.on_trial_result(trial, _syne_record(evaluation, loss)) == SchedulerDecision.STOP:
            self._scheduler.on_trial_remove(trial)
            return False
        return True

    def end(self, trial_id: str, evaluation: int, loss: float | None, state: str) -> None:
        """Report the end; a trial that did not complete has failed."""
        if loss is None:
            self._scheduler.on_trial_error(self._trials[trial_id])
        else:
            self._scheduler.on_trial_complete(self._trials[trial_id], _syne_record(evaluation, loss))


def _syne_record(evaluation: int, loss: float) -> dict[str, Any]:
    return {"evaluation": evaluation, "loss": loss}


def _syne_axis(distribution: BaseDistribution) -> Any:
    """Return a distribution as Syne Tune has it."""
    from syne_tune.config_space import choice, loguniform, randint, uniform

    if isinstance(distribution, CategoricalDistribution):
        return choice(list(distribution.choices))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if isinstance(distribution, IntDistribution):
        assert distribution.step == 1
        return randint(distribution.low, distribution.high)
    return (loguniform if distribution.log else uniform)(distribution.low, distribution.high)


def _median(workload: Workload) -> BasePruner:
    return MedianPruner(n_warmup_steps=workload.evaluations // 4)


def _hyperband(workload: Workload) -> BasePruner:
    return HyperbandPruner(min_resource=1, max_resource=workload.evaluations)


Maker = Callable[[Workload, int], Search]
PEERS: dict[str, Maker] = {
    "stock": lambda workload, seed: Stock(workload, seed, None),
    "stock, 25 % grace": lambda workload, seed: Stock(workload, seed, 0.25),
    "optuna, median": lambda workload, seed: Plain(workload, seed, _median(workload)),
    "optuna, hyperband": lambda workload, seed: Plain(workload, seed, _hyperband(workload)),
}
if importlib.util.find_spec("syne_tune") is not None:
    PEERS |= {"syne tune, bohb": SyneTune}
OWN: Mapping[str, Mapping[str, Any]] = {
    "ours": {},
    "random": {"sampler": "random", "scheduler": "none"},
    "random + asha": {"sampler": "random"},
}


def own(settings: Mapping[str, Any]) -> Maker:
    """Return the maker of a search with `settings` of the `search` section."""
    return lambda workload, seed: Own(workload, seed, settings)


def arms(extra: Mapping[str, Mapping[str, Any]]) -> dict[str, Maker]:
    """Return every search by its name.

    Args:
        extra: further searches of our own: settings of the `search` section by name.
    """
    return {name: own(settings) for name, settings in {**OWN, **extra}.items()} | dict(PEERS)
