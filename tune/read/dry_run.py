"""What a search would do, as a person reads it."""

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tune.read.format import counted, duration
from tune.read.space import axes, points

if TYPE_CHECKING:
    from tune.dry_run import DryRun

_SHOWN = 8
_ASHAS_SHARE = "about half"
"""Of the training of all trials to their ends; 40 to 60 % in the searches of `benchmarks.search_quality`."""


def dry_run(run: "DryRun") -> RenderableType:
    """Return the space, the first trials, what shares a device, and what the search may take."""
    search, timing = run.config.search, run.timing
    facts = Table.grid(padding=(0, 0, 0, 2), pad_edge=True)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    together = counted(run.slots, "trial")
    facts.add_row(
        "device", f"{together} on each of {run.devices}; {run.most_slots} would fit, at the largest rank"
    )
    facts.add_row(
        "a step", f"{timing.step_s:.3g} s for {together}; an evaluation {timing.evaluation_s:.3g} s"
    )
    facts.add_row(
        "a trial",
        f"{timing.max_steps} steps, {counted(run.evaluations, 'evaluation')}: {duration(run.trial_s)}",
    )
    cost = f", {run.price:.2f} at cluster.price_per_hour" if run.price is not None else ""
    facts.add_row(
        "the search",
        f"{counted(search.num_trials, 'trial')}, {run.at_once} at once: at most {duration(run.longest_s)}, "
        f"{run.device_hours:.2g} device-hours{cost}",
    )
    notes = []
    if search.scheduler != "none":
        notes.append(
            f"{search.scheduler} stops weak trials early, which usually leaves {_ASHAS_SHARE} of that."
        )
    if run.config.evaluation.text_metrics != "never":
        notes.append("Starting, generated texts and checkpoints come on top.")
    shown = run.first[:_SHOWN]
    return Group(
        Text("Space", "bold"),
        "",
        axes(run.space),
        "",
        Text(f"First trials ({len(shown)} of {search.num_trials})", "bold"),
        "",
        points(shown),
        "",
        Text("Estimate", "bold"),
        "",
        facts,
        Padding("\n".join(notes), (0, 0, 0, 2)),
        "",
        "Nothing was started.",
    )
