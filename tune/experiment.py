"""A search from its configuration to its best adapter.

Everything that a user can have got wrong is checked before Ray is started and before a folder is made. The
experiment's folder then holds `config.yaml` (the resolved configuration), `study.journal` (the Optuna
study: the truth about every trial), one folder a trial (results and checkpoints), W&B's offline runs, and,
when the search is over, `best/`.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import ray
from ray import tune as ray_tune
from rich.console import Console

from cluster.placement import Placement, devices
from cluster.session import session
from search_spaces import Space
from trainable.data import PreparedData, check_files, prepare
from trainable.errors import ExperimentError, UserError
from trainable.evaluation import load_families
from trainable.host import create_hosts
from trainable.lora.layer import adaptable_layers, resolve_targets
from trainable.model import load_tokenizer, outline, resolve
from trainable.model.description import describe_model
from trainable.schedules import total_steps
from trainable.trial import LoraTrial
from tune.best import Best, collect_best
from tune.callbacks.log import TrialLog
from tune.callbacks.progress import Progress
from tune.callbacks.wandb import Experiment, WandbLoggerCallback
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
    config = _named(config)
    directory = config.search.results_dir.resolve() / str(config.search.name)
    if directory.exists():
        raise ExperimentError(
            f"experiment '{config.search.name}' exists already in '{config.search.results_dir}'. "
            "Choose another --name, or look at it with: loratune trials " + str(config.search.name)
        )
    space = Space.load(config.search.space, config.trial())
    data = _prepare(config, console)
    directory.mkdir(parents=True)
    (directory / CONFIG_NAME).write_text(config.to_yaml(), encoding="utf-8")
    cluster = config.cluster
    try:
        with session(
            cluster.address, num_cpus=cluster.num_cpus, num_gpus=cluster.num_gpus, log_dir=directory
        ):
            return _search(config, directory, space, data, console)
    except UserError:
        # Nothing has been searched: the name stays free for the mended command.
        shutil.rmtree(directory)
        raise


def _named(config: Config) -> Config:
    name = config.search.name or time.strftime("search-%Y%m%d-%H%M%S")
    return config.model_copy(update={"search": config.search.model_copy(update={"name": name})})


def _prepare(config: Config, console: Console) -> PreparedData:
    """Read the rows, build or find the base model, tokenise: all that can be wrong before Ray is there."""
    load_families(config.evaluation.metrics)
    check_files(config.data)
    with console.status("base model") as status:
        base = resolve(config.model, lambda text: status.update(text))
        resolve_targets(adaptable_layers(outline(config.model)), config.lora.target_modules)
        status.update("tokens")
        data = prepare(config.data, load_tokenizer(config.model), tokenizer_id=base)
    for name, table in (("train", data.train), ("val", data.val), ("test", data.test)):
        if table is not None:
            cut = f", {table.rows_cut} cut at {config.data.max_length} tokens" if table.rows_cut else ""
            console.print(f"[dim]{name}: {len(table)} rows, {table.target_tokens} target tokens{cut}[/dim]")
    return data


def _search(config: Config, directory: Path, space: Space, data: PreparedData, console: Console) -> Finished:
    search = config.search
    name = str(search.name)
    trial = config.trial()
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
    placement = devices(config.engine.device)
    slots = _slots(config, placement)
    max_steps = total_steps(trial.training, len(data.train))
    progress = Progress(
        console,
        metric=search.metric,
        mode=search.mode,
        num_trials=search.num_trials,
        experiment=name,
        rungs=rungs(search, max_steps),
    )
    tracked = Experiment(
        group=name,
        metric=search.metric,
        mode=search.mode,
        tags=[search.sampler, search.scheduler, config.model.name],
        directory=directory,
        model=describe_model(config.model) if config.wandb.watch_model else None,
        data_hash=data.data_hash,
    )
    wandb = WandbLoggerCallback(config.wandb, tracked, say=console.print)
    hosts = create_hosts(name, trial)
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(
            ray_tune.with_parameters(LoraTrial, experiment=name), placement.resources_per_trial(slots)
        ),
        tune_config=ray_tune.TuneConfig(
            search_alg=searcher,
            scheduler=make_scheduler(search, max_steps),
            num_samples=search.num_trials,
            max_concurrent_trials=search.max_concurrent,
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


def _slots(config: Config, placement: Placement) -> int:
    """How many trials share a device: as configured, else as many as are tried at once at the most."""
    wanted = config.engine.slots_per_device
    if wanted == "auto":
        wanted = placement.default_slots
    return min(wanted, config.search.max_concurrent or wanted, config.search.num_trials)


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
