"""`loratune submit` and `loratune jobs`: searches that run on a cluster as Ray jobs."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainable.errors import ConfigError
from trainable.places import place_of, sent
from tune.cli.command import HelpAll, KeyCommand, key_flags, with_examples
from tune.cli.options import EXIT_NO_TRIAL, FILES, SEARCH, ConfigFile, ResultsDir, option_layer
from tune.config import Config

if TYPE_CHECKING:
    from cluster.jobs import Jobs

CLUSTER = "Cluster"
_CONFIG = "search.yaml"

SUBMIT_COMMAND = key_flags(
    KeyCommand,
    "loratune submit --address http://head:8265 --config my.yaml --results_dir s3://bucket/results --follow",
    "loratune submit --address http://head:8265 --config my.yaml --results_dir /shared/results --name first",
    "loratune submit --address http://head:8265 --resume first --results_dir /shared/results",
)
app = typer.Typer(help="Look at and stop the searches that a cluster runs as jobs.", no_args_is_help=True)

Address = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="RAY_API_SERVER_ADDRESS",
        help="The cluster's dashboard: http://HEAD:8265.",
        rich_help_panel=CLUSTER,
    ),
]
JobId = Annotated[str, typer.Argument(help="The job's id, as `loratune jobs list` prints it.")]


def submit(
    context: typer.Context,
    address: Address,
    config: ConfigFile = None,
    results_dir: ResultsDir = None,
    name: Annotated[str | None, typer.Option(help="The experiment's name.", rich_help_panel=SEARCH)] = None,
    trials: Annotated[int | None, typer.Option(help="Trials to try.", rich_help_panel=SEARCH)] = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", help="Resume this experiment instead.", rich_help_panel=SEARCH),
    ] = None,
    ship: Annotated[
        list[Path] | None,
        typer.Option(
            "--ship", help="A module, file or folder of your own that the job needs.", rich_help_panel=FILES
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print what the job prints.", rich_help_panel=CLUSTER)
    ] = False,
    help_all: HelpAll = False,
) -> None:
    """Send a search to a Ray cluster; it runs on when this machine goes away."""
    from cluster.jobs import check_results_dir

    jobs = _connect(address)
    if resume is not None:
        if results_dir is None:
            raise ConfigError("--resume needs --results_dir: where the cluster finds the experiment.")
        check_results_dir(results_dir)
        words = ["resume", resume, "--results_dir", str(sent(place_of(results_dir))), *context.args]
        words += ["--trials", str(trials)] if trials is not None else []
        files = {}
    else:
        resolved = _resolved(config, context.args, results_dir, name, trials)
        words, files = ["search", "--config", _CONFIG], {_CONFIG: resolved.to_yaml()}
    job_id = jobs.submit(words, files, ship or [])
    typer.echo(f"job {job_id} was sent to {address}")
    if follow:
        _follow(jobs, job_id, address)
    else:
        typer.echo(f"  its output  loratune jobs logs {job_id} --follow --address {address}")
        typer.echo(f"  stop it     loratune jobs stop {job_id} --address {address}")


def _resolved(
    config: Path | None, words: list[str], results_dir: str | None, name: str | None, trials: int | None
) -> Config:
    """Return the search's configuration as the cluster reads it: named, and with its axes, not their file.

    Raises:
        UserError: something has to be corrected first.
    """
    own = option_layer({"search.results_dir": results_dir, "search.name": name, "search.num_trials": trials})
    resolved = Config.assemble(config, words, own)
    check_results_dir(resolved.search.results_dir)
    for key in ("train", "val", "test"):
        value = getattr(resolved.data, key)
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, Path) and not one.is_absolute():
                raise ConfigError(
                    f"data.{key} '{one}' is relative, and data are not sent with a job. Give its absolute "
                    "place on the cluster's nodes, or a name that they can look up (corpus:…, hub:…)."
                )
    space = Space.load(resolved.search.space, resolved.trial())
    named = resolved.search.name or time.strftime("search-%Y%m%d-%H%M%S")
    place = sent(resolved.search.results_dir)
    update = {"space": space.to_json(), "name": named, "results_dir": place}
    search = resolved.search.model_copy(update=update)
    return resolved.model_copy(update={"search": search})


@app.callback()
def _group() -> None:
    """Look at and stop the searches that a cluster runs as jobs."""


@app.command("list", epilog=with_examples("loratune jobs list --address http://head:8265"))
def list_jobs(address: Address) -> None:
    """List loratune's jobs on a cluster."""
    found = _connect(address).listed()
    if not found:
        typer.echo("no jobs of loratune's")
    for job in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started)) if job.started else "-" * 16
        typer.echo(f"{job.job_id}  {job.status:<9}  {when}  {job.command}")


@app.command(epilog=with_examples("loratune jobs logs raysubmit_1 --follow --address http://head:8265"))
def logs(
    job_id: JobId,
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False,
) -> None:
    """Print what a job has printed."""
    jobs = _connect(address)
    if follow:
        _follow(jobs, job_id, address)
    else:
        typer.echo(jobs.logs(job_id), nl=False)


@app.command(epilog=with_examples("loratune jobs stop raysubmit_1 --address http://head:8265"))
def stop(job_id: JobId, address: Address) -> None:
    """Have a job save its trials and end; `loratune submit --resume` continues the search."""
    stopped = _connect(address).stop(job_id)
    typer.echo(f"job {job_id} {'saves its trials and ends' if stopped else 'had ended already'}")


def _connect(address: str) -> "Jobs":
    """Connect to a cluster's jobs; Ray is imported here, not for `loratune --help`."""
    from cluster.jobs import Jobs

    return Jobs(address)


def _follow(jobs: "Jobs", job_id: str, address: str) -> None:
    """Print a job's output until it ends, and exit as it did; Ctrl-C leaves the job alone."""
    try:
        job = jobs.follow(job_id, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        typer.echo(
            f"\nThe job runs on. Follow it again: loratune jobs logs {job_id} --follow --address {address}"
        )
        raise typer.Exit from None
    if job.status != "SUCCEEDED":
        typer.echo(f"job {job_id} {job.status.lower()}: {job.message or os.linesep}", err=True)
        raise typer.Exit(EXIT_NO_TRIAL)
