"""Looks at everything that a search needs, and trains nothing: what `loratune doctor` prints."""

import functools
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

import ray
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.address import find as find_cluster
from cluster.session import session
from search_spaces import Space
from trainable.config import WandbConfig
from trainable.data import check_files
from trainable.errors import UserError
from trainable.hosts import create_hosts
from trainable.tracking.server import Server, ServerUnavailableError, has_key
from tune import preflight
from tune.config import Config
from tune.experiment import checked_space, resolve
from tune.preflight import Finding
from tune.search.capacity import Capacity
from tune.search.preparation import largest, prepare

_FINE, _WARNING, _FATAL = Text("✓", "green"), Text("!", "yellow"), Text("✗", "bold red")


def examine(config: Config, console: Console) -> list[Finding]:
    """Look at the configuration, the cluster, each of its nodes, the base model and W&B.

    The first device loads the base model and compares packed training with training alone on it.

    Raises:
        UserError: the configuration, the space or the data have to be corrected first, or the cluster cannot
            be reached.
    """
    check_files(config.data)
    space = checked_space(config)
    config = resolve(config, space)
    cluster = config.cluster
    target = find_cluster(cluster.address)
    where = "a Ray of the search's own" if target.is_own else f"{target.address}, named by {target.named_by}"
    space_text = f"{len(space.axes)} axes, {config.search.num_trials} trials by {config.search.sampler}"
    findings = [Finding("", "cluster", where), Finding("", "space", space_text)]
    with (
        tempfile.TemporaryDirectory() as logs,
        session(target, num_cpus=cluster.num_cpus, num_gpus=cluster.num_gpus, log_dir=Path(logs)),
    ):
        say = functools.partial(console.print, markup=False, highlight=False)
        capacity = Capacity(config, say, may_wait=False)
        with console.status(Text("nodes")):
            findings += preflight.examine(config, capacity.among(preflight.workers()))
        if not any(finding.fatal for finding in findings):
            findings.append(_engine(config, space, capacity, console))
    findings.append(_wandb(config.wandb))
    return findings


def _engine(config: Config, space: Space, capacity: Capacity, console: Console) -> Finding:
    """Load the base model and the data on the first device, and check packed training there."""
    hosts = create_hosts(f"doctor-{uuid.uuid4().hex[:8]}", largest(space, config.trial()))
    try:
        prepared = prepare(hosts, space, capacity, console)
    except UserError as error:
        return Finding("", "base model", str(error), "Correct this first.", fatal=True)
    finally:
        ray.kill(hosts)
    found = f"{config.model.name}: packed training checked, {prepared.slots} trials fit the first device"
    return Finding("", "base model", found)


def _wandb(wandb: WandbConfig) -> Finding:
    """Ask the W&B server that the environment names."""
    if wandb.mode == "disabled":
        return Finding("", "W&B", "disabled")
    if wandb.mode == "offline" or not has_key():
        why = "wandb.mode is offline" if wandb.mode == "offline" else "there is no API key"
        return Finding("", "W&B", f"offline, because {why}", "Set WANDB_API_KEY, or run `wandb sync` later.")
    try:
        Server().ping()
    except ServerUnavailableError as error:
        return Finding("", "W&B", f"no answer: {error}", "Runs are kept on disk and can be sent later.")
    return Finding("", "W&B", f"answers, for project {wandb.project}")


def report(findings: Sequence[Finding]) -> RenderableType:
    """Return a table of the findings: a line each, and below a problem what to do about it."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for _ in ("sign", "node", "what"):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in findings:
        sign = (
            Text("✗", "bold red") if one.fatal else Text("!", "yellow") if one.remedy else Text("✓", "green")
        )
        table.add_row(sign, Text(one.node), Text(one.what), Text(one.found))
        if one.remedy:
            table.add_row("", "", "", Text(one.remedy, "dim"))
    return table
