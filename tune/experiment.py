"""A search from its configuration to its best adapter.

What a user can have got wrong is told before a trial is started: configuration, space and files before Ray
is, the base model, the rows and the target modules by the first engine; nothing is left behind then. The
experiment's folder holds `config.yaml` (the resolved configuration), `study.journal` (the Optuna study: the
truth about every trial), one folder a trial (results and checkpoints), W&B's offline runs, and, when the
search is over, `best/`.
"""

import functools
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune as ray_tune
from ray.actor import ActorHandle
from ray.exceptions import RayTaskError
from ray.tune.error import TuneError
from ray.tune.schedulers import TrialScheduler
from rich.console import Console

from cluster.placement import Placement, devices
from cluster.session import session
from search_spaces import Space
from trainable.config import TrialConfig
from trainable.data import check_files, table_lines
from trainable.errors import ExperimentError, UserError
from trainable.evaluation import load_families
from trainable.host import create_hosts
from trainable.lora.schedules import total_steps
from trainable.trial import LoraTrial
from tune.callbacks.interrupt import StopOnSignal
from tune.callbacks.log import TrialLog
from tune.callbacks.progress import Progress
from tune.callbacks.wandb import Experiment, WandbLoggerCallback
from tune.config import Config, storage_of
from tune.search.best_adapter import Best, collect_best
from tune.search.resume import Resumption, carry_out
from tune.search.samplers import make_sampler
from tune.search.schedulers import make_scheduler, replay, rungs
from tune.search.searcher import OptunaSearcher
from tune.search.trial_source import TrialGenerator
from tune.store.lock import locked
from tune.store.reader import CONFIG_NAME, TrialView, read_trials

MAX_FAILURES = 3
"""How often Ray starts a trial again that a fault of the machine ended."""


@dataclass(frozen=True)
class Finished:
    """What a search came to.

    Attributes:
        directory: the experiment's folder.
        trials: all of them.
        best: the best adapter; `None` if no trial has one.
        interrupted: whether the user stopped it.
        seconds: from the first trial's start to the end.
    """

    directory: Path
    trials: list[TrialView]
    best: Best | None
    interrupted: bool
    seconds: float


def run(config: Config, console: Console) -> Finished:
    """Run the search that `config` describes, telling its progress on `console`.

    Raises:
        UserError: something in the configuration, the data or the cluster has to be mended first.
    """
    check_files(config.data)
    config = _named(config)
    directory = config.search.results_dir.resolve() / str(config.search.name)
    if directory.exists():
        raise ExperimentError(
            f"experiment '{config.search.name}' exists already in '{config.search.results_dir}'. "
            f"Go on with it: loratune resume {config.search.name}; or choose another --name."
        )
    config = _within_grid(config, _load_space(config))
    directory.mkdir(parents=True)
    (directory / CONFIG_NAME).write_text(config.to_yaml(), encoding="utf-8")
    try:
        with locked(directory):
            return _search(config, directory, console, None)
    except UserError:
        # Nothing has been searched: the name stays free for the mended command.
        shutil.rmtree(directory)
        with suppress(OSError):
            directory.parent.rmdir()
        raise


def resume(resumption: Resumption, console: Console) -> Finished:
    """Go on with a search as planned.

    Raises:
        UserError: something has to be mended first, or another process works on the experiment.
    """
    directory, config = resumption.directory, resumption.config
    check_files(config.data)
    _load_space(config)
    with locked(directory):
        temporary = directory / f".{CONFIG_NAME}.tmp"
        temporary.write_text(config.to_yaml(), encoding="utf-8")
        temporary.rename(directory / CONFIG_NAME)
        return _search(config, directory, console, resumption)


def _within_grid(config: Config, space: Space) -> Config:
    """Try no more trials than a grid has combinations."""
    if config.search.sampler != "grid":
        return config
    most = min(config.search.num_trials, len(space.combinations()))
    return config.model_copy(update={"search": config.search.model_copy(update={"num_trials": most})})


def _load_space(config: Config) -> Space:
    load_families(config.evaluation.metrics)
    return Space.load(config.search.space, config.trial())


def _named(config: Config) -> Config:
    """Give the experiment a name, and its files paths that hold on every process of the node."""
    name = config.search.name or time.strftime("search-%Y%m%d-%H%M%S")
    return config.model_copy(
        update={
            "search": config.search.model_copy(update={"name": name}),
            "data": config.data.absolute(),
        }
    )


def _prepare(hosts: ActorHandle, space: Space, placement: Placement, console: Console) -> dict[str, Any]:
    """Have the first device's engine load the base model and the data; tell what there is.

    Raises:
        UserError: the data, the model or the target modules have to be mended first.
    """
    host = ray.get(hosts.host.remote(*placement.first_device))
    loading = host.prepare.remote(space.extremes("lora.target_modules"))
    with console.status("") as status:
        while not ray.wait([loading], timeout=0.2)[0]:
            status.update(ray.get(host.saying.remote()))
    try:
        found = ray.get(loading)
    except RayTaskError as error:
        raise error.cause from None
    for name, table in found["tables"].items():
        for line in table_lines(name, **table):
            console.print(line, style="dim", markup=False, highlight=False)
    return found


def _largest(space: Space, trial: TrialConfig) -> TrialConfig:
    """Return a trial with the largest rank that the space allows: what memory must hold."""
    return space.apply(trial, {"lora.r": max([trial.lora.r, *space.extremes("lora.r")])})


def _search(config: Config, directory: Path, console: Console, resumption: Resumption | None) -> Finished:
    cluster = config.cluster
    with session(cluster.address, num_cpus=cluster.num_cpus, num_gpus=cluster.num_gpus, log_dir=directory):
        space, trial = _load_space(config), config.trial()
        hosts = create_hosts(str(config.search.name), _largest(space, trial))
        placement = devices(config.engine.device)
        found = _prepare(hosts, space, placement, console)
        max_steps = total_steps(trial.training, found["tables"]["train"]["rows"])
        searcher = _searcher(config, directory, space, resumption)
        stop = StopOnSignal(hosts)
        progress = _progress(config, directory, console, max_steps, searcher.new_trials)
        wandb = _wandb(config, directory, console, space, found, resumption)
        tuner = _tuner(
            config,
            directory,
            placement,
            slots=min(found["slots"], config.search.max_concurrent or config.search.num_trials),
            searcher=searcher,
            scheduler=_scheduler(config, max_steps, resumption),
            callbacks=[TrialLog(directory), wandb, progress, stop],
        )
        began = time.monotonic()
        with progress, stop:
            if not searcher.exhausted:
                _fit(tuner)
        seconds = time.monotonic() - began
        searcher.suspend()
        if searcher.given_up:
            console.print(f"The search ends early: {searcher.given_up}")
        trials = read_trials(directory)
        with console.status("best adapter"):
            best = collect_best(directory, trials, config, hosts)
        ray.kill(hosts)
        return Finished(directory, trials, best, stop.received is not None, seconds)


def _fit(tuner: ray_tune.Tuner) -> None:
    """Run the search; an error of the disk comes out as it was, not in Ray's words."""
    try:
        tuner.fit()
    except TuneError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        raise cause or error from None


def _searcher(config: Config, directory: Path, space: Space, resumption: Resumption | None) -> OptunaSearcher:
    search = config.search
    new_trials = resumption.plan.new_trials if resumption else search.num_trials
    grid = space.combinations() if search.sampler == "grid" else []
    if grid:
        tried = sum(trial.follows is None for trial in read_trials(directory))
        new_trials = min(new_trials, len(grid) - tried)
    searcher = OptunaSearcher(
        space,
        config.trial(),
        study_name=str(search.name),
        storage=storage_of(config, directory),
        metric=search.metric,
        mode=search.mode,
        sampler=functools.partial(make_sampler, search, grid=grid),
        new_trials=new_trials,
    )
    if resumption:
        carry_out(resumption, searcher)
    return searcher


def _scheduler(config: Config, max_steps: int, resumption: Resumption | None) -> TrialScheduler:
    scheduler = make_scheduler(config.search, max_steps)
    if resumption:
        replay(scheduler, resumption.past)
    return scheduler


def _wandb(
    config: Config,
    directory: Path,
    console: Console,
    space: Space,
    found: Mapping[str, Any],
    resumption: Resumption | None,
) -> WandbLoggerCallback:
    tracked = Experiment(
        group=str(config.search.name),
        metric=config.search.metric,
        mode=config.search.mode,
        tags=[config.search.sampler, config.search.scheduler, config.model.name],
        directory=directory,
        model=found["model"] if config.wandb.watch_model else None,
        data_hash=found["data_hash"],
        earlier={past.trial_id: past.log for past in resumption.past} if resumption else {},
    )
    wandb = WandbLoggerCallback(config.wandb, tracked, say=console.print)
    for trial in read_trials(directory):
        if trial.state.is_end:
            config_then = space.apply(config.trial(), trial.params).model_dump(mode="json")
            known = {"trial": config_then, "params": dict(trial.params), "number": trial.number}
            wandb.settle(trial.trial_id, known, trial.state, trial.reason)
    return wandb


def _progress(config: Config, directory: Path, console: Console, max_steps: int, new_trials: int) -> Progress:
    earlier = read_trials(directory)
    return Progress(
        console,
        metric=config.search.metric,
        mode=config.search.mode,
        num_trials=len(earlier) + new_trials,
        experiment=directory.name,
        rungs=rungs(config.search, max_steps),
        earlier=earlier,
    )


def _tuner(
    config: Config,
    directory: Path,
    placement: Placement,
    *,
    slots: int,
    searcher: OptunaSearcher,
    scheduler: TrialScheduler,
    callbacks: list[ray_tune.Callback],
) -> ray_tune.Tuner:
    search = config.search
    trainable = ray_tune.with_parameters(LoraTrial, experiment=str(search.name), directory=str(directory))
    # Ray would start trials one by one; those that fit may start together, and no more than fit is asked for.
    concurrent = min(search.max_concurrent or search.num_trials, placement.capacity(slots))
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(concurrent)
    return ray_tune.Tuner(
        ray_tune.with_resources(trainable, placement.resources_per_trial(slots)),
        tune_config=ray_tune.TuneConfig(
            search_alg=TrialGenerator(searcher, concurrent, directory),
            scheduler=scheduler,
            num_samples=search.num_trials,
            time_budget_s=search.timeout_s,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=ray_tune.RunConfig(
            name=directory.name,
            storage_path=str(directory.parent),
            callbacks=callbacks,
            checkpoint_config=ray_tune.CheckpointConfig(
                checkpoint_frequency=1,
                num_to_keep=2,
                checkpoint_score_attribute=search.metric,
                checkpoint_score_order=search.mode,
            ),
            failure_config=ray_tune.FailureConfig(max_failures=MAX_FAILURES),
            verbose=0,
        ),
    )
