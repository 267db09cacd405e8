"""The verbs of the Python interface; `loratune.py` is its name.

A call leaves the process as it was: environment variables, signal handlers, loggers and file descriptors. It
prints nothing unless it is asked to, handles signals in the main thread alone, and can be called from a
script, a notebook, another thread or a running event loop, which it blocks while it works.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.process import restored_process
from trainable.config import Layer, Section, environment_layer, mapping_layer
from trainable.places import local_folder, place_of, shown
from tune.config import Config, files_of, results_folder
from tune.read.experiment import Experiment

if TYPE_CHECKING:
    from ray.tune import Callback
    from rich.console import Console

    from trainable.single import SingleResult
    from tune.experiment import SearchResult
    from tune.read.export import Exported
    from tune.store.experiment import ExperimentStore

Settings = str | Path | Mapping[str, Any] | Section | None
"""A YAML file, a shipped configuration's name, sections as a mapping, or a configuration object."""


@restored_process()
def search(
    config: Settings = None,
    *,
    train: str | Path | None = None,
    val: str | Path | None = None,
    test: str | Path | None = None,
    model: str | None = None,
    space: str | Path | Mapping[str, Any] | None = None,
    trials: int | None = None,
    name: str | None = None,
    results_dir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    callbacks: "Sequence[Callback]" = (),
    verbose: bool = False,
) -> Experiment:
    """Search for the best LoRA configuration, as `loratune search` does.

    Later settings win: the configuration, the environment's W&B variables, `overrides`, the other arguments.

    Args:
        config: a YAML file, a shipped configuration's name such as `quickstart`, a mapping like such a file,
            or a configuration object; `None`: `config/base_config.yaml` if there is one.
        train: training rows.
        val: validation rows, which the search is guided by.
        test: test rows; where `train` and `val` are given and `test` is not, there are none.
        model: `builtin:tiny`, a hub name, a local folder or a GGUF file.
        space: a preset, a YAML file, or the axes themselves.
        trials: trials to try.
        name: the experiment's name.
        results_dir: the folder that experiments are kept in, or its URI.
        overrides: any other settings by dotted key, such as `{"training.max_steps": 100}`.
        callbacks: Ray Tune callbacks of your own.
        verbose: show the progress and the results, as the command does.

    Raises:
        UserError: something in the configuration, the data or the cluster has to be corrected first.
        KeyboardInterrupt: a signal ended the search; it was saved, and `resume` resumes it.
    """
    own = {
        "data.train": train,
        "data.val": val,
        "data.test": test,
        "model.name": model,
        "search.space": str(space) if isinstance(space, Path) else space,
        "search.num_trials": trials,
        "search.name": name,
        "search.results_dir": results_dir,
    }
    resolved = Config.from_layers(_layers(config, overrides, own))
    from tune.experiment import run

    console = _console(verbose)
    return _ended(run(resolved, console, callbacks=callbacks), console)


@restored_process()
def resume(
    experiment: str | Path,
    *,
    trials: int | str | None = None,
    retry_failed: bool = False,
    results_dir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    callbacks: "Sequence[Callback]" = (),
    verbose: bool = False,
) -> Experiment:
    """Resume a search that was interrupted, or extend one that is finished, as `loratune resume` does.

    Args:
        experiment: its name, its folder, or its URI.
        trials: trials in all, or `"+50"` for 50 more.
        retry_failed: run failed trials again.
        results_dir: the folder that a name is looked up in.
        overrides: other settings that may change, by dotted key.
        callbacks: Ray Tune callbacks of your own.
        verbose: show the progress and the results, as the command does.

    Raises:
        UserError: there is no such experiment, or something differs that must not.
        KeyboardInterrupt: a signal ended the search; it was saved, and can be resumed again.
    """
    store = _store(experiment, results_dir)
    stored = store.read_config()
    wanted = stored.config.search.trials_wanted(str(trials)) if trials is not None else None
    new = stored.changed(
        [mapping_layer(overrides or {}, Config, "overrides"), _given({"search.num_trials": wanted})]
    )
    from tune.experiment import resume as run_resumed
    from tune.search.resume import plan

    resumption = plan(store, stored.config, new, retry_failed=retry_failed)
    console = _console(verbose)
    return _ended(run_resumed(resumption, console, callbacks=callbacks), console)


@restored_process()
def train(
    config: Settings = None,
    *,
    train: str | Path | None = None,
    val: str | Path | None = None,
    test: str | Path | None = None,
    model: str | None = None,
    output_dir: str | Path = "models/lora",
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    verbose: bool = False,
) -> "SingleResult":
    """Train one LoRA configuration in this process, as `loratune train` does.

    Args:
        config: as in `search`; the configuration of a search's best trial is `experiment.best.config`.
        train: training rows.
        val: validation rows.
        test: test rows; where `train` and `val` are given and `test` is not, there are none.
        model: `builtin:tiny`, a hub name, a local folder or a GGUF file.
        output_dir: the folder that the run is written to.
        overrides: any other settings by dotted key.
        resume: resume the run in `output_dir`.
        verbose: print each evaluation.

    Returns:
        How it ended, the best record, the test metrics, and the adapter's folder.

    Raises:
        UserError: something in the configuration, the data or the folder has to be corrected first.
    """
    own = {"data.train": train, "data.val": val, "data.test": test, "model.name": model}
    folder = local_folder(output_dir, "output_dir")
    resolved = Config.from_layers(_layers(config, overrides, own)).trial()
    from trainable.single import run_single
    from trainable.tracking import WandBLogger

    say: Callable[[str], None] = print if verbose else lambda line: None
    with WandBLogger(resolved.wandb, say=say) as logger:
        return run_single(resolved, folder, logger, say, resume=resume)


def load(experiment: str | Path, *, results_dir: str | Path | None = None) -> Experiment:
    """Read an experiment; it may be running, interrupted or finished.

    Args:
        experiment: its name, its folder, or its URI.
        results_dir: the folder that a name is looked up in; `None`: as configured.

    Raises:
        UserError: there is no such experiment, or it cannot be read.
    """
    from tune.store.reader import read

    return Experiment(read(_store(experiment, results_dir)))


def report(experiment: str | Path, to: str | Path, *, results_dir: str | Path | None = None) -> Path:
    """Write a report of an experiment, as `loratune report` does; returns its path.

    Args:
        experiment: its name, or its folder.
        to: the file; `.md` makes Markdown, `.json` JSON, any other name an HTML page.
        results_dir: the folder that a name is looked up in; `None`: as configured.

    Raises:
        UserError: there is no such experiment, or the file cannot be written.
    """
    from tune.read.report.gather import gather
    from tune.read.report.write import WRITERS
    from tune.read.terminal import write_output
    from tune.store.reader import read

    file = Path(to)
    write = WRITERS.get(file.suffix.lstrip("."), WRITERS["html"])
    content = write(gather(read(_store(experiment, results_dir)), time.time()))
    write_output(file, content.encode("utf-8", "replace"))
    return file


def export(
    experiment: str | Path,
    to: str | Path,
    *,
    trial: int | None = None,
    merge: bool = False,
    check: bool = True,
    results_dir: str | Path | None = None,
) -> "Exported":
    """Write an adapter with its model card, or merged into its base model, as `loratune export` does.

    Args:
        experiment: its name, or its folder.
        to: the folder; it must not exist, or be empty. Or `hub:OWNER/NAME`, to which it is pushed from the
            folder `EXPERIMENT-adapter` or `EXPERIMENT-merged`.
        trial: the trial's number; `None`: the best one.
        merge: write the weights of base model and adapter together.
        check: load what was written and score it again.
        results_dir: the folder that a name is looked up in; `None`: as configured.

    Raises:
        UserError: there is no such adapter, the folder is taken, or what was written does not score what
            the search reported; it is not left behind then. Or the hub refuses it; the folder is kept then.
    """
    from tune.read.export import export as write

    return write(load(experiment, results_dir=results_dir), to, trial=trial, merge=merge, check=check)


def _store(experiment: str | Path, results_dir: str | Path | None) -> "ExperimentStore":
    from tune.store.experiment import ExperimentStore

    return ExperimentStore.find(str(experiment), place_of(results_dir) if results_dir else results_folder())


def _layers(config: Settings, overrides: Mapping[str, Any] | None, own: Mapping[str, Any]) -> list[Layer]:
    """Return the layers of a call, in the order of the command line's."""
    if isinstance(config, Section):
        config = config.model_dump(mode="json")
    if isinstance(config, Mapping):
        layers = [mapping_layer(config, Config, "config")]
    else:
        layers = files_of(Path(config) if config is not None else None)
    given = _given(own)
    if {"data.train", "data.val"} <= given.values.keys():
        # Test rows that the configuration names belong to other data.
        layers.append(Layer("argument", {"data.test": None}))
    return [*layers, environment_layer(), mapping_layer(overrides or {}, Config, "overrides"), given]


def _given(values: Mapping[str, Any]) -> Layer:
    return Layer("argument", {key: value for key, value in values.items() if value is not None})


def _console(verbose: bool) -> "Console":
    """Return a console that shows everything, or nothing."""
    from rich.console import Console

    from tune.read import terminal

    # Not a terminal when quiet: rich would redirect the program's own prints to it.
    return terminal.console() if verbose else Console(quiet=True, force_terminal=False)


def _ended(result: "SearchResult", console: "Console") -> Experiment:
    from tune.read.final_report import final_report

    interruption = result.interruption
    console.print(final_report(result.data, result.best, interrupted=interruption is not None))
    if interruption is not None and interruption.by_user:
        raise KeyboardInterrupt(f"{interruption.reason}; loratune.resume('{shown(result.data.store.place)}')")
    return Experiment(result.data)
