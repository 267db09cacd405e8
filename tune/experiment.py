"""A search from its configuration to its best adapter.

What a user can have got wrong is told before a trial is started: configuration, space and files before Ray
is, the base model, the rows and the target modules by the first engine; nothing is left behind then. The
experiment's folder holds `config.yaml` (the resolved configuration), `study.journal` (the Optuna study: the
truth about every trial), one folder a trial (results and checkpoints), W&B's offline runs, and, when the
search is over, `best/`.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray import tune as ray_tune
from ray.actor import ActorHandle
from ray.exceptions import RayTaskError
from rich.console import Console

from cluster.placement import Placement, devices
from cluster.session import session
from search_spaces import Space
from trainable.config import TrialConfig
from trainable.data import check_files
from trainable.errors import ExperimentError, UserError
from trainable.evaluation import load_families
from trainable.host import create_hosts
from trainable.schedules import total_steps
from trainable.trial import LoraTrial
from tune.best import Best, collect_best
from tune.callbacks.log import TrialLog
from tune.callbacks.progress import Progress
from tune.callbacks.wandb import WandbLoggerCallback
from tune.config import Config
from tune.results import CONFIG_NAME, STUDY_NAME, TrialView, read_trials
from tune.samplers import make_sampler
from tune.schedulers import make_scheduler, rungs
from tune.searcher import OptunaSearcher

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
            "Choose another --name, or look at it with: loratune trials " + str(config.search.name)
        )
    space = Space.load(config.search.space, config.trial())
    load_families(config.evaluation.metrics)
    directory.mkdir(parents=True)
    (directory / CONFIG_NAME).write_text(config.to_yaml(), encoding="utf-8")
    cluster = config.cluster
    try:
        with session(
            cluster.address, num_cpus=cluster.num_cpus, num_gpus=cluster.num_gpus, log_dir=directory
        ):
            return _search(config, directory, space, console)
    except UserError:
        # Nothing has been searched: the name stays free for the mended command.
        shutil.rmtree(directory)
        with suppress(OSError):
            directory.parent.rmdir()
        raise


def _named(config: Config) -> Config:
    """Give the experiment a name, and its files paths that hold on every process of the node."""
    name = config.search.name or time.strftime("search-%Y%m%d-%H%M%S")
    paths = {key: path.resolve() for key, path in config.data if isinstance(path, Path)}
    return config.model_copy(
        update={
            "search": config.search.model_copy(update={"name": name}),
            "data": config.data.model_copy(update=paths),
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
        cut = f", {table['rows_cut']} cut to data.max_length" if table["rows_cut"] else ""
        told = f"{name}: {table['rows']} rows, {table['target_tokens']} target tokens{cut}"
        console.print(f"[dim]{told}[/dim]")
    return found


def _largest(space: Space, trial: TrialConfig) -> TrialConfig:
    """Return a trial with the largest rank that the space allows: what memory must hold."""
    return space.apply(trial, {"lora.r": max([trial.lora.r, *space.extremes("lora.r")])})


def _search(config: Config, directory: Path, space: Space, console: Console) -> Finished:
    search = config.search
    name = str(search.name)
    trial = config.trial()
    hosts = create_hosts(name, _largest(space, trial))
    placement = devices(config.engine.device)
    found = _prepare(hosts, space, placement, console)
    slots = min(found["slots"], search.max_concurrent or search.num_trials, search.num_trials)
    # Ray would start trials one by one; those that fit may start together, and no more than fit is asked for.
    concurrent = min(search.max_concurrent or search.num_trials, placement.capacity(slots))
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(concurrent)
    max_steps = total_steps(trial.training, found["tables"]["train"]["rows"])
    searcher = OptunaSearcher(
        space,
        trial,
        study_name=name,
        storage=directory / STUDY_NAME,
        metric=search.metric,
        mode=search.mode,
        sampler=make_sampler(search),
        num_trials=search.num_trials,
    )
    progress = Progress(
        console,
        metric=search.metric,
        mode=search.mode,
        num_trials=search.num_trials,
        experiment=name,
        rungs=rungs(search, max_steps),
    )
    wandb = WandbLoggerCallback(
        config.wandb,
        group=name,
        metric=search.metric,
        mode=search.mode,
        tags=[search.sampler, search.scheduler, config.model.name],
        directory=directory,
        say=console.print,
    )
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(
            ray_tune.with_parameters(LoraTrial, experiment=name), placement.resources_per_trial(slots)
        ),
        tune_config=ray_tune.TuneConfig(
            search_alg=searcher,
            scheduler=make_scheduler(search, max_steps),
            num_samples=search.num_trials,
            max_concurrent_trials=concurrent,
            time_budget_s=search.timeout_s,
            reuse_actors=True,
            trial_name_creator=lambda ray_trial: ray_trial.trial_id,
            trial_dirname_creator=lambda ray_trial: ray_trial.trial_id,
        ),
        run_config=ray_tune.RunConfig(
            name=name,
            storage_path=str(directory.parent),
            callbacks=[TrialLog(directory), wandb, progress],
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
    began = time.monotonic()
    with progress, _stopping_on_signals() as stopped:
        tuner.fit()
    seconds = time.monotonic() - began
    searcher.close("interrupted" if stopped else "the search's time was over")
    trials = read_trials(directory)
    with console.status("best adapter"):
        best = collect_best(directory, trials, config, hosts)
    ray.kill(hosts)
    return Finished(directory, trials, best, bool(stopped), seconds)


@contextmanager
def _stopping_on_signals() -> Iterator[list[int]]:
    """Let the first SIGINT or SIGTERM end the search cleanly; the yielded list then holds it.

    Ray ends a running search on SIGUSR1 with a last snapshot of its state. A second signal ends the process.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if received or not callable(signal.getsignal(signal.SIGUSR1)):
            raise KeyboardInterrupt
        received.append(number)
        os.kill(os.getpid(), signal.SIGUSR1)

    # Ray would take SIGINT for itself and not say that it did.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
