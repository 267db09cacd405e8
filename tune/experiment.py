"""A search from its configuration to its best adapter.

A user's mistakes are reported before a trial is started: configuration, space and files before Ray is, the
base model, the rows and the target modules by the first engine. Nothing is left behind then.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
import sqlalchemy
from ray import tune as ray_tune
from ray.tune.error import TuneError
from ray.tune.schedulers import TrialScheduler
from rich.console import Console
from rich.text import Text

from cluster.address import find as find_cluster
from cluster.address import in_job
from cluster.jobs import check_results_dir
from cluster.session import session, trials_start_together
from search_spaces import Space
from trainable.cost import Cost
from trainable.data import check_files
from trainable.errors import ConfigError, ExperimentError, UserError
from trainable.extension import load_object
from trainable.host import Identity, Prepared
from trainable.hosts import create_hosts
from trainable.lora.schedules import total_steps
from trainable.places import absolute, parent_of
from trainable.records import JUDGED, MetricsRecord
from trainable.trial import LoraTrial
from tune import preflight
from tune.callbacks.interrupt import InterruptHandler, Interruption, SearchInterrupted
from tune.callbacks.log import TrialLog
from tune.callbacks.progress import Progress
from tune.callbacks.requests import RequestHandler
from tune.callbacks.tracked_search import tracked_search
from tune.callbacks.waiting import Waiting
from tune.callbacks.wandb import WandbLoggerCallback
from tune.config import Config
from tune.search.best_adapter import Best, collect_best
from tune.search.capacity import Capacity
from tune.search.ending import check_ending
from tune.search.preparation import largest, prepare
from tune.search.resume import Resumption, carry_out
from tune.search.samplers import check_sampler
from tune.search.schedulers import check_scheduler, make_scheduler, replay, rungs
from tune.search.searcher import OptunaSearcher
from tune.search.trial_source import TrialSource, ray_storage
from tune.search.warm_start import NOTE, collect
from tune.store.experiment import ExperimentStore
from tune.store.reader import ExperimentData, read

MAX_FAILURES = 3
"""How often Ray starts a trial again that ended with an error of its own."""

_IDENTITIES = {
    "data_hash": "the data",
    "tokens_id": "the tokenizer or its chat template",
    "base_id": "the base model",
}
"""What a search's trials share, known by its content wherever its files lie; notes of the study."""


@dataclass(frozen=True)
class SearchResult:
    """What a search came to.

    Attributes:
        data: the experiment, as it was when the search ended.
        best: the best adapter; `None` if no trial has one.
        interruption: why the search ended before it was finished; `None` if it did not.
        seconds: from the first trial's start to the end.
    """

    data: ExperimentData
    best: Best | None
    interruption: Interruption | None
    seconds: float


def run(
    config: Config,
    console: Console,
    *,
    callbacks: Sequence[ray_tune.Callback] = (),
    captures_stderr: bool = False,
) -> SearchResult:
    """Run the search that `config` describes, reporting its progress on `console`.

    Args:
        config: the search's.
        console: shows the progress.
        callbacks: Ray Tune callbacks of the caller's own.
        captures_stderr: send what native code writes to the process's stderr to the experiment's `ray.log`.

    Raises:
        UserError: something in the configuration, the data or the cluster has to be corrected first.
    """
    if in_job():
        check_results_dir(config.search.results_dir)
    check_files(config.data)
    space = checked_space(config)
    collect(config, space)
    config = resolve(config, space)
    store = ExperimentStore.create(config)
    try:
        with store.locked():
            return _search(_Search(store, config, space, None, callbacks, captures_stderr), console)
    except UserError:
        # Nothing has been searched: the name stays free for the corrected command.
        if not store.logged_trial_ids():
            store.discard()
        raise


def check_resumption(resumption: Resumption) -> Space:
    """Check what can be checked without Ray; returns the space.

    Raises:
        UserError: something has to be corrected first.
    """
    check_files(resumption.config.data)
    return checked_space(resumption.config)


def checked_space(config: Config) -> Space:
    """Return the space, once sampler, scheduler and known points have been checked against it.

    Raises:
        UserError: something has to be corrected first.
    """
    space = Space.load(config.search.space, config.trial())
    check_sampler(config.search, space)
    check_scheduler(config.search)
    check_ending(config.search, space)
    for place, point in enumerate(config.search.enqueue):
        space.apply(config.trial(), space.known_point(point, f"search.enqueue[{place}]"))
    return space


def resume(
    resumption: Resumption,
    console: Console,
    *,
    callbacks: Sequence[ray_tune.Callback] = (),
    captures_stderr: bool = False,
) -> SearchResult:
    """Resume a search as planned.

    Args:
        resumption: what to do.
        console: shows the progress.
        callbacks: as in `run`.
        captures_stderr: as in `run`.

    Raises:
        UserError: something has to be corrected first, or another process works on the experiment.
    """
    space, store = check_resumption(resumption), resumption.data.store
    with store.locked():
        store.write_config(resumption.stored)
        search = _Search(store, resumption.config, space, resumption, callbacks, captures_stderr)
        return _search(search, console)


def resolve(config: Config, space: Space) -> Config:
    """Return the configuration as it is stored: named, with its axes and with absolute paths.

    What is stored must mean the same from any folder and after a space file is edited.
    """
    search = config.search
    most = len(space.combinations()) if search.sampler == "grid" else search.num_trials
    return config.model_copy(
        update={
            "search": search.model_copy(
                update={
                    "name": search.name or time.strftime("search-%Y%m%d-%H%M%S"),
                    "space": space.to_json(),
                    "storage": _absolute_storage(search.storage),
                    "results_dir": absolute(search.results_dir),
                    "num_trials": min(search.num_trials, most),
                }
            ),
            "data": config.data.absolute(),
            "model": config.model.absolute(),
        }
    )


def _absolute_storage(url: str | None) -> str | None:
    """Return a database's URL; that of a SQLite file with an absolute path."""
    if url is None or not url.startswith("sqlite:///") or "$" in url:
        return url
    parsed = sqlalchemy.make_url(url)
    return f"sqlite:///{Path(parsed.database or '').resolve()}"


@dataclass(frozen=True)
class _Search:
    """What one run of a search works with."""

    store: ExperimentStore
    config: Config
    space: Space
    resumption: Resumption | None
    callbacks: Sequence[ray_tune.Callback]
    captures_stderr: bool


def _search(search: _Search, console: Console) -> SearchResult:
    store, config = search.store, search.config
    cluster = config.cluster
    target = find_cluster(cluster.address)
    if not target.is_own:
        ignored = (
            " (cluster.num_cpus and num_gpus do not apply)" if cluster.num_cpus or cluster.num_gpus else ""
        )
        line = f"cluster: {target.address}, named by {target.named_by}{ignored}"
        console.print(line, markup=False, highlight=False)
    with session(
        target,
        num_cpus=cluster.num_cpus,
        num_gpus=cluster.num_gpus,
        log_dir=store.folder,
        captures_stderr=search.captures_stderr,
    ):
        say = functools.partial(console.print, markup=False, highlight=False)
        capacity = Capacity(config, say, may_wait=not target.is_own)
        if len(nodes := capacity.among(preflight.workers())) > 1:
            preflight.require(preflight.examine(config, nodes))
        hosts = create_hosts(str(config.search.name), largest(search.space, config.trial()))
        prepared = prepare(hosts, search.space, capacity, console)
        max_steps = total_steps(config.training, prepared.tables["train"].rows)
        searcher = _searcher(search, prepared)
        # The one reading of the experiment before it runs: callbacks and scheduler start from it.
        before = read(store, config)
        interrupt = InterruptHandler(hosts, config.search.timeout_s)
        requests = RequestHandler(store.requests, searcher.enqueue, interrupt)
        progress = _progress(before, console, max_steps, searcher.new_trials, capacity)
        tuner = _tuner(
            search,
            capacity,
            prepared.identity,
            searcher=searcher,
            scheduler=_scheduler(search, max_steps),
            # These two first: they give a trial that a person stopped its reason, for all the others.
            callbacks=[
                requests,
                _wandb(search, before, prepared, max_steps, console),
                TrialLog(store),
                progress,
                Waiting(say, capacity.lack),
                *_own_callbacks(config),
                *search.callbacks,
                interrupt,
            ],
        )
        began = time.monotonic()
        with progress, interrupt:
            if not searcher.exhausted:
                _fit(tuner, capacity.at_once)
        seconds = time.monotonic() - began
        searcher.suspend()
        if searcher.ended_early:
            console.print(f"The search ends early: {searcher.ended_early}.", markup=False, highlight=False)
        after = read(store, config)
        with console.status(Text("best adapter")):
            stopped = interrupt.interruption is not None and interrupt.interruption.by_user
            best = collect_best(after, hosts, prepared.identity, capacity.devices, final=not stopped)
        ray.kill(hosts)
        return SearchResult(after, best, interrupt.interruption, seconds)


def _searcher(search: _Search, prepared: Prepared) -> OptunaSearcher:
    config, settings, resumption = search.config, search.config.search, search.resumption
    study = search.store.create_study(config)
    for key, what in _IDENTITIES.items():
        present, earlier = getattr(prepared.identity, key), study.note(key)
        if earlier not in (None, present):
            raise ExperimentError(
                f"{what} differs from what the experiment's trials were trained on ({present[:24]}, not "
                f"{earlier[:24]}). Restore the files, or begin a new search."
            )
        study.set_note(key, present)
    if study.note(NOTE) is None:
        identities = {key: getattr(prepared.identity, key) for key in _IDENTITIES}
        earlier = collect(config, search.space, identities)
        study.set_note(NOTE, [trial.to_json() for trial in earlier])
    new_trials = resumption.plan.new_trials if resumption else settings.num_trials
    searcher = OptunaSearcher(
        search.space,
        config.trial(),
        study,
        settings,
        new_trials=new_trials,
        files=lambda trial_id: search.store.trial(trial_id).files,
        first=search.space.first_point(prepared.model.architecture, prepared.model.hidden_size),
        spent=Cost.of(_earlier_logs(resumption)),
    )
    if resumption:
        carry_out(resumption, searcher)
    return searcher


def _scheduler(search: _Search, max_steps: int) -> TrialScheduler:
    scheduler = make_scheduler(search.config.search, search.config.objective, max_steps)
    if search.resumption:
        replay(scheduler, search.resumption.history, search.config.objective)
    return scheduler


def _wandb(
    search: _Search, before: ExperimentData, prepared: Prepared, max_steps: int, console: Console
) -> WandbLoggerCallback:
    resumption = search.resumption
    return tracked_search(
        before,
        search.space,
        prepared,
        earlier=_earlier_logs(resumption),
        rungs=rungs(search.config.search, max_steps),
        say=functools.partial(console.print, markup=False),
    )


def _earlier_logs(resumption: Resumption | None) -> dict[str, Sequence[MetricsRecord]]:
    return {past.trial_id: past.log for past in resumption.history} if resumption else {}


def _own_callbacks(config: Config) -> list[ray_tune.Callback]:
    """Return the user's own callbacks.

    Raises:
        ConfigError: one cannot be imported, or is not a Ray Tune callback.
    """
    callbacks = []
    for name in config.search.callbacks:
        callback = load_object(name, "search.callbacks")()
        if not isinstance(callback, ray_tune.Callback):
            raise ConfigError(f"search.callbacks: '{name}' must be a class derived from ray.tune.Callback.")
        callbacks.append(callback)
    return callbacks


def _progress(
    before: ExperimentData, console: Console, max_steps: int, new_trials: int, capacity: Capacity
) -> Progress:
    return Progress(
        console,
        objective=before.objective,
        num_trials=len(before.trials) + new_trials,
        experiment=before.store.name,
        rungs=rungs(before.config.search, max_steps),
        earlier=before.trials,
        fault=capacity.faults.last,
    )


def _tuner(
    search: _Search,
    capacity: Capacity,
    identity: Identity,
    *,
    searcher: OptunaSearcher,
    scheduler: TrialScheduler,
    callbacks: list[ray_tune.Callback],
) -> ray_tune.Tuner:
    settings, store = search.config.search, search.store
    objective = search.config.objective
    trainable = ray_tune.with_parameters(
        LoraTrial, experiment=str(settings.name), identity=identity, objective=objective
    )
    return ray_tune.Tuner(
        trainable,
        tune_config=ray_tune.TuneConfig(
            search_alg=TrialSource(
                searcher, capacity.limit, search.store, faults=capacity.faults, request=capacity.request
            ),
            scheduler=scheduler,
            num_samples=settings.num_trials,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=ray_tune.RunConfig(
            name=store.name,
            **ray_storage(parent_of(store.place)),
            callbacks=callbacks,
            checkpoint_config=ray_tune.CheckpointConfig(
                checkpoint_frequency=1,
                num_to_keep=2,
                checkpoint_score_attribute=JUDGED,
                checkpoint_score_order="min",
            ),
            failure_config=ray_tune.FailureConfig(max_failures=MAX_FAILURES),
            verbose=0,
        ),
    )


def _fit(tuner: ray_tune.Tuner, concurrent: int) -> None:
    """Run the search; a disk's error comes out as it was, not in Ray's words."""
    try:
        with trials_start_together(concurrent):
            tuner.fit()
    except (TuneError, SearchInterrupted) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError | SearchInterrupted):
            cause = cause.__cause__ or cause.__context__
        if not isinstance(cause, SearchInterrupted):
            raise cause or error from None
