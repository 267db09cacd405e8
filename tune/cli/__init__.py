"""The command line: `loratune search | resume | verify | train | trials | status | data | config`.

Any configuration key is a flag by its dotted name. A mistake of the user's ends in one line and exit code 2,
a search without a single successful trial in 3, an experiment that is broken in 4, an interrupted search in
130. What a command needs is imported
when it runs, so that `loratune --help` answers at once.
"""

import errno
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from trainable.config import Layer
from trainable.errors import ConfigError, UserError
from tune.config import Config, load, load_with_sources

if TYPE_CHECKING:
    from tune.experiment import Finished

EXIT_USER_ERROR = 2
EXIT_NO_TRIAL = 3
EXIT_BROKEN = 4
EXIT_INTERRUPTED = 130

OUTPUT_DIR = Path("models/weather-lora")
"""Where a single run is written to if nobody says where."""

app = typer.Typer(
    help="Hyperparameter search for LoRA fine-tuning on Ray Tune.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Make the data files of the shipped application.", no_args_is_help=True)
config_app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")

_DOTTED = {"allow_extra_args": True, "ignore_unknown_options": True}
_EPILOG = "Any key of config/base_config.yaml is a flag too: --training.batch_size 2 --lora.r=8"

ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file; see config/base_config.yaml.")]
ResultsDir = Annotated[Path | None, typer.Option("--results_dir", help="Folder of all experiments.")]
NoWandb = Annotated[bool, typer.Option("--no_wandb", help="Do not track in Weights & Biases.")]
Experiment = Annotated[str, typer.Argument(help="An experiment's name, or its folder.")]


@app.command(context_settings=_DOTTED, epilog=_EPILOG)
def search(
    context: typer.Context,
    config: ConfigFile = None,
    name: Annotated[str | None, typer.Option(help="The experiment's name; also its W&B group.")] = None,
    trials: Annotated[int | None, typer.Option(help="Trials to try.")] = None,
    results_dir: ResultsDir = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampler and of every trial.")] = None,
    sweep: Annotated[Path | None, typer.Option("--sweep", help="A W&B sweep file to search by.")] = None,
    no_wandb: NoWandb = False,
) -> None:
    """Search for the best LoRA configuration."""
    own = {
        "search.name": name,
        "search.num_trials": trials,
        "search.results_dir": results_dir,
        "search.seed": seed,
        "training.seed": seed,
        "wandb.mode": "disabled" if no_wandb else None,
    }
    below = []
    if sweep is not None:
        from tune.search.wandb_sweep import sweep_layer

        below.append(sweep_layer(sweep, load(config, context.args)))
    resolved = load(config, context.args, _options(own), below=below)
    from tune.experiment import run

    console = Console()
    _finish(run(resolved, console), resolved, console)


@app.command(context_settings=_DOTTED, epilog=_EPILOG)
def resume(
    context: typer.Context,
    experiment: Experiment,
    trials: Annotated[str | None, typer.Option(help="Trials in all; +50 for 50 more.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    results_dir: ResultsDir = None,
) -> None:
    """Go on with a search that was interrupted, or extend one that is over."""
    from tune.read import tables as report
    from tune.search.resume import plan
    from tune.store import reader as results

    folder = results.find_experiment(experiment, results_dir or Config().search.results_dir)
    path = folder / results.CONFIG_NAME
    here = {"search.results_dir": folder.parent}
    old = load(path, None, _options(here))
    more = {"search.num_trials": _more_trials(trials, old.search.num_trials)}
    new = load(path, context.args, _options(here | more))
    found = plan(folder, old, new, retry_failed=retry_failed)
    console = Console()
    console.print(report.plan(found))
    if dry_run:
        return
    from tune.experiment import resume as go_on

    _finish(go_on(found, console), new, console)


@app.command()
def verify(experiment: Experiment, results_dir: ResultsDir = None) -> None:
    """Check that nothing of an experiment is lost, doubled or broken."""
    from tune.read.verify import verify as check
    from tune.store import reader as results

    folder = results.find_experiment(experiment, results_dir or Config().search.results_dir)
    checked = check(folder)
    for problem in checked.problems:
        typer.echo(problem)
    verdict = f"{len(checked.problems)} problems" if checked.problems else "all sound"
    typer.echo(
        f"{checked.trials} trials, {checked.records} records, {checked.checkpoints} checkpoints: {verdict}"
    )
    if checked.problems:
        raise typer.Exit(EXIT_BROKEN)


@app.command(context_settings=_DOTTED, epilog=_EPILOG)
def train(
    context: typer.Context,
    config: ConfigFile = None,
    train_data: Annotated[Path | None, typer.Option("--train_data", help="Training rows.")] = None,
    val_data: Annotated[Path | None, typer.Option("--val_data", help="Validation rows.")] = None,
    test_data: Annotated[Path | None, typer.Option("--test_data", help="Test rows.")] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output_dir", help=f"Where the run is written to; {OUTPUT_DIR} if not given."),
    ] = None,
    wandb_project: Annotated[str | None, typer.Option("--wandb_project", help="W&B project.")] = None,
    wandb_run_name: Annotated[str | None, typer.Option("--wandb_run_name", help="W&B run name.")] = None,
    no_wandb: NoWandb = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output_dir.")] = False,
) -> None:
    """Train one LoRA configuration."""
    own = {
        "data.train": train_data,
        "data.val": val_data,
        "data.test": test_data,
        "wandb.project": wandb_project,
        "wandb.name": wandb_run_name,
        "wandb.mode": "disabled" if no_wandb else None,
    }
    resolved = load(config, context.args, _options(own)).trial()
    from trainable.records import TrialState
    from trainable.single import run_single
    from trainable.tracking import WandBLogger
    from tune.read.tables import predictions

    console = Console()
    with WandBLogger(resolved.wandb) as logger:
        result = run_single(resolved, output_dir or _output_dir(), logger, console.print, resume=resume)
    for key, value in result.test.items():
        console.print(f"  {key} {value:.4f}")
    console.print(predictions(result.predictions[:3]))
    if result.state is not TrialState.COMPLETED:
        console.print(f"{result.state}: {result.reason}")
        raise typer.Exit(EXIT_NO_TRIAL)
    console.print(f"adapter: {result.adapter}")


@app.command()
def trials(
    experiment: Experiment,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object a trial.")] = False,
    results_dir: ResultsDir = None,
) -> None:
    """List an experiment's trials, best first (with --json: in the order they were tried)."""
    from tune.read import tables as report
    from tune.store import reader as results

    folder = results.find_experiment(experiment, results_dir or Config().search.results_dir)
    found = results.read_trials(folder)
    if as_json:
        sys.stdout.write(json.dumps([trial.to_json() for trial in found], indent=2) + "\n")
        return
    settings = load(folder / results.CONFIG_NAME).search
    ordered = results.leaderboard(found, settings.metric, settings.mode)
    Console().print(report.leaderboard(ordered, settings.metric, settings.mode))


@app.command()
def status(experiment: Experiment, results_dir: ResultsDir = None) -> None:
    """Say how far an experiment is, and its best so far."""
    from tune.read import tables as report
    from tune.store import reader as results

    folder = results.find_experiment(experiment, results_dir or Config().search.results_dir)
    Console().print(report.status(results.status(folder)))


@data_app.command()
def weather(
    directory: Annotated[Path, typer.Argument(help="Where train.json, val.json and test.json go.")],
    train: Annotated[int, typer.Option(min=1, help="Training rows.")] = 2000,
    val: Annotated[int, typer.Option(min=1, help="Validation rows.")] = 200,
    test: Annotated[int, typer.Option(min=1, help="Test rows.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same rows.")] = 0,
) -> None:
    """Make the built-in weather corpus: observations in, forecast texts out."""
    from trainable.data import write_weather

    for path in write_weather(directory, train, val, test, seed):
        typer.echo(path)


@data_app.command()
def weathergov(
    source: Annotated[Path, typer.Argument(help="Folder with {train,val,test}.jsonl or .jsonl.gz records.")],
    directory: Annotated[Path, typer.Argument(help="Where train.json, val.json and test.json go.")],
) -> None:
    """Turn WeatherGov records into the three data files."""
    from trainable.data import write_weathergov

    for path in write_weathergov(source, directory):
        typer.echo(path)


@config_app.command("show", context_settings=_DOTTED, epilog=_EPILOG)
def show_config(context: typer.Context, config: ConfigFile = None) -> None:
    """Print the resolved configuration, and who set what is not at its default."""
    resolved, sources = load_with_sources(config, context.args)
    typer.echo(resolved.to_yaml(), nl=False)
    for key, source in sorted(sources.items()):
        typer.echo(f"# {key}: {source}")


def main() -> None:
    """Run the command line."""
    # Threads that wait for work must not spin: trials, driver and engine share the machine's cores, and
    # with another program beside them spinning makes torch several times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"loratune: {error}\n")
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        sys.stderr.write("loratune: interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.stderr.write(
            f"loratune: the disk is full ({error.filename or error}). Free some space; after a search, go on "
            "with: loratune resume NAME. Nothing that was told is lost.\n"
        )
        sys.exit(EXIT_USER_ERROR)


def _finish(finished: "Finished", config: Config, console: Console) -> None:
    """Say farewell to a search, and end as it has ended."""
    from tune.read.final_report import farewell

    console.print(farewell(finished, config))
    if finished.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if finished.best is None:
        raise typer.Exit(EXIT_NO_TRIAL)


def _output_dir() -> Path:
    """Return the default folder of a single run; each run of a W&B sweep's agent has its own in it."""
    of_sweep = "WANDB_SWEEP_ID" in os.environ and os.environ.get("WANDB_RUN_ID")
    return OUTPUT_DIR / of_sweep if of_sweep else OUTPUT_DIR


def _more_trials(wanted: str | None, before: int) -> int | None:
    """Read `--trials` of a resumed search: a number, or `+50` for so many more."""
    if wanted is None:
        return None
    if not wanted.removeprefix("+").isdecimal():
        raise ConfigError(f"--trials '{wanted}' must be a number, or + and a number for so many more.")
    return before + int(wanted) if wanted.startswith("+") else int(wanted)


def _options(values: dict[str, Any]) -> Layer:
    return Layer("option", {key: value for key, value in values.items() if value is not None})
