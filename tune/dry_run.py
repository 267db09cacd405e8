"""What a search would do, without starting it: no Ray, no experiment folder, no W&B.

The base model and the data are loaded in this process, the first trials are drawn as the search would draw
them, and as many as would share the device train together for a few steps.
"""

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cluster.placement import Node, Placement
from search_spaces import Space
from tune.config import Config
from tune.experiment import checked_space, resolve
from tune.read.format import counted, duration
from tune.read.space import axes, points
from tune.search.preparation import largest
from tune.search.searcher import OptunaSearcher
from tune.search.warm_start import NOTE, collect
from tune.store.study import StudyStore

if TYPE_CHECKING:
    from trainable.engine.timing import Timing

_STEPS = 3
_SHOWN = 8
_ASHAS_SHARE = "about half"
"""Of the training of all trials to their ends; 40 to 60 % in the searches of `benchmarks.search_quality`."""


@dataclass(frozen=True)
class DryRun:
    """A search before it is started.

    Attributes:
        config: as it would be stored.
        space: what is searched.
        first: parameters of the trials that would start together, the first ones of the search.
        slots: trials that would share a device.
        most_slots: trials that one device has room for.
        devices: the devices of this machine.
        timing: of the first trials of one device, trained together.
        evaluations: of a full trial.
    """

    config: Config
    space: Space
    first: Sequence[Mapping[str, Any]]
    slots: int
    most_slots: int
    devices: int
    timing: "Timing"
    evaluations: int

    @property
    def at_once(self) -> int:
        """Trials that would run at the same time."""
        wanted = self.config.search.max_concurrent or self.config.search.num_trials
        return min(wanted, self.slots * self.devices)

    @property
    def trial_s(self) -> float:
        """Seconds that a full pack takes from its first step to its last."""
        timing = self.timing
        return timing.max_steps * timing.step_s + self.evaluations * timing.evaluation_s

    @property
    def longest_s(self) -> float:
        """Seconds of the search if no trial were stopped early."""
        return self.config.search.num_trials / self.at_once * self.trial_s

    @property
    def device_hours(self) -> float:
        """Device-hours of the search if no trial were stopped early."""
        return self.longest_s / 3600 * self.devices

    @property
    def price(self) -> float | None:
        """What these cost; `None` if `cluster.price_per_hour` is not set."""
        per_hour = self.config.cluster.price_per_hour
        return None if per_hour is None else self.device_hours * per_hour


def dry_run(config: Config, say: Callable[[str], None]) -> DryRun:
    """Look at the search that `config` describes.

    Args:
        config: the search's.
        say: takes lines for the terminal: how far loading is.

    Raises:
        UserError: something in the configuration or the data has to be corrected first.
    """
    from trainable.engine.build import build_engine
    from trainable.engine.timing import measure

    space = checked_space(config)
    config = resolve(config, space)
    engine, most = build_engine(largest(space, config.trial()), say)
    placement = _this_machine(engine.base.module.device.type)
    at_once = config.search.max_concurrent or config.search.num_trials
    slots = placement.slots_for(at_once, most)
    model = engine.describe(config.model.name)
    first = _first_trials(config, space, space.first_point(model.architecture, model.hidden_size), slots)
    timed = [space.apply(config.trial(), params) for params in first]
    timing = measure(engine, timed, _STEPS)
    return DryRun(
        config=config,
        space=space,
        first=first,
        slots=slots,
        most_slots=most,
        devices=placement.num_devices,
        timing=timing,
        evaluations=math.ceil(timing.max_steps / config.evaluation.eval_every_steps),
    )


def _this_machine(device: str) -> Placement:
    import torch

    gpus = torch.cuda.device_count() if device == "cuda" else 0
    return Placement("cuda" if gpus else "cpu", (Node(os.cpu_count() or 1, gpus, "here"),))


def _first_trials(
    config: Config, space: Space, first: Mapping[str, Any] | None, count: int
) -> list[Mapping[str, Any]]:
    """Return the parameters of the trials that start before any has reported."""
    with tempfile.TemporaryDirectory() as folder:
        study = StudyStore.create(Path(folder) / "study.journal", "dry-run", config.objective)
        study.set_note(NOTE, [trial.to_json() for trial in collect(config, space)])
        searcher = OptunaSearcher(space, config.trial(), study, config.search, new_trials=count, first=first)
        found: list[Mapping[str, Any]] = []
        while isinstance(suggestion := searcher.suggest(str(len(found))), dict):
            found.append(suggestion["params"])
        return found


def report(run: DryRun) -> RenderableType:
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
