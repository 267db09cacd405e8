"""Before the first trial: one engine loads the base model and the data, and says what there is."""

import dataclasses

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError
from rich.console import Console
from rich.text import Text

from search_spaces import Space
from trainable.config import TrialConfig
from trainable.data import table_lines
from trainable.errors import ClusterError
from trainable.host import Prepared
from tune.search.capacity import Capacity

_PREPARATIONS = 3
"""Engines that may die while they load, before the search is given up."""


def largest(space: Space, trial: TrialConfig) -> TrialConfig:
    """Return a trial with the largest rank that the space allows: what memory must hold."""
    return space.apply(trial, {"lora.r": max([trial.lora.r, *space.extremes("lora.r")])})


def prepare(hosts: ActorHandle, space: Space, capacity: Capacity, console: Console) -> Prepared:
    """Have the first device's engine load the base model and the data, divide the devices, and print it all.

    Raises:
        UserError: the data, the model or the target modules have to be corrected first.
        ClusterError: one engine after the other died.
    """
    prepared = _loaded(hosts, space, capacity, console)
    for name, table in prepared.tables.items():
        for line in table_lines(name, **dataclasses.asdict(table)):
            console.print(line, style="dim", markup=False, highlight=False)
    for note in prepared.notes:
        console.print(note, style="dim", markup=False, highlight=False)
    return prepared


def _loaded(hosts: ActorHandle, space: Space, capacity: Capacity, console: Console) -> Prepared:
    modules = space.extremes("lora.target_modules")
    host: ActorHandle | None = None
    for _ in range(_PREPARATIONS):
        placement = capacity.devices()
        try:
            host, _ = ray.get(hosts.host.remote(*placement.first_device(capacity.say), None, host))
            loading = host.prepare.remote(modules)
            with console.status(Text()) as status:
                while not ray.wait([loading], timeout=0.2)[0]:
                    status.update(Text(ray.get(host.saying.remote())))
            prepared: Prepared = ray.get(loading)
            capacity.divide(placement, prepared.slots)
            return prepared
        except RayTaskError as error:
            raise error.cause from None
        except RayActorError as error:
            died = error
    raise ClusterError(
        f"{_PREPARATIONS} engines died while they loaded the base model and the data: {died}. "
        "Look into ray.log and the nodes' memory; a model that does not fit is the usual cause."
    )
