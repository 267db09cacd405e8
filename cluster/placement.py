"""How devices are shared out: a trial asks Ray for its slot's share of one device.

A device is a GPU, or, on a cluster without GPUs, a node's CPUs. Ray counts resources in ten-thousandths, so a
share is rounded down to one: all slots of a device fit, and never one more.

Which nodes count is a `Scope`. The same scope filters `ray.nodes()` here and is handed to Ray's scheduler
with each trial's request, so both see the same cluster. Clusters change while a search runs: `Slots` counts
the nodes again whenever the capacity is needed.
"""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import ray
from ray.tune import PlacementGroupFactory
from ray.util.placement_group import remove_placement_group

from trainable.errors import ClusterError

Prefer = Literal["auto", "cpu", "cuda"]

_GRANULES = 10_000
"""The parts that Ray divides one unit of a resource into."""


_NODE_ID = "ray.io/node-id"
"""The label that Ray gives every node."""
_POLL_S = 1.0
_PATIENCE_S = 10.0
"""How long a request may take before it is said that it waits; starting a process takes seconds."""


@dataclass(frozen=True)
class Scope:
    """Which nodes a search may use.

    Attributes:
        labels: a value, or an expression of Ray's such as `in(a,b)` or `!in(a,b)`, by label.
        resources: what each trial takes of custom resources; only nodes that offer them are used.
        excluded: the ids of nodes that are not used.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    excluded: frozenset[str] = frozenset()

    def without(self, node_ids: frozenset[str]) -> "Scope":
        """Return the scope without some more nodes."""
        return replace(self, excluded=self.excluded | node_ids)

    def allows(self, node: Mapping[str, Any]) -> bool:
        """Return whether a node, in the form that `ray.nodes()` lists it, is alive and may be used."""
        labels = node.get("Labels", {})
        return (
            node["Alive"]
            and node["NodeID"] not in self.excluded
            and all(node["Resources"].get(name, 0) >= amount for name, amount in self.resources.items())
            and all(_matches(labels.get(name), wanted) for name, wanted in self.labels.items())
        )

    def request(self, share: Mapping[str, float]) -> PlacementGroupFactory:
        """Return what one trial asks Ray for.

        Args:
            share: its share of a device, by Ray's names of resources.
        """
        selector = dict(self.labels)
        if self.excluded:
            selector[_NODE_ID] = f"!in({','.join(sorted(self.excluded))})"
        bundles = [{**share, **self.resources}]
        if not selector:
            return PlacementGroupFactory(bundles)
        return PlacementGroupFactory(bundles, bundle_label_selector=[selector])


def _matches(value: str | None, wanted: str) -> bool:
    """Return whether a label's value satisfies a selector, by the rules of Ray's label selectors."""
    negated, expression = wanted.startswith("!"), wanted.removeprefix("!")
    listed = re.fullmatch(r"in\((.*)\)", expression)
    values = [one.strip() for one in listed[1].split(",")] if listed else [expression]
    return (value in values) != negated


@dataclass(frozen=True)
class Node:
    """One live machine of the cluster: how many CPUs and GPUs it offers, and Ray's id of it."""

    cpus: float
    gpus: float
    node_id: str


@dataclass(frozen=True)
class Placement:
    """The devices that trials are placed on.

    Attributes:
        kind: `cuda`: each GPU is a device; `cpu`: each node is one.
        nodes: the nodes that have such a device.
    """

    kind: Literal["cpu", "cuda"]
    nodes: tuple[Node, ...]

    @property
    def num_devices(self) -> int:
        """GPUs, or nodes where there are none."""
        return sum(int(node.gpus) for node in self.nodes) if self.kind == "cuda" else len(self.nodes)

    def first_device(self, say: Callable[[str], None] = lambda _: None) -> tuple[str, str]:
        """Return the ids of a node and of a GPU on it, empty for the CPU: where the first trials will be.

        Ray is asked for a GPU with room: its ids are those that the node's `CUDA_VISIBLE_DEVICES` allows, any
        number, a UUID or a MIG device.

        Args:
            say: takes one line if all GPUs are taken, before this waits for one.
        """
        if self.kind == "cpu":
            return self.nodes[0].node_id, ""
        among = {_NODE_ID: f"in({','.join(node.node_id for node in self.nodes)})"}
        share = ray.remote(_device).options(num_cpus=0, num_gpus=1 / _GRANULES, label_selector=among)
        asked = share.remote()
        if not ray.wait([asked], timeout=_PATIENCE_S)[0]:
            say(f"waiting for a GPU: all {self.num_devices} are taken by others.")
        node_id, gpu = ray.get(asked)
        return node_id, gpu

    def slots_for(self, trials_at_once: int, most: int) -> int:
        """Return how many trials share a device so that trials use all devices before they share one.

        Where nodes have different numbers of CPUs, more slots make shares that smaller nodes can hold too.

        Args:
            trials_at_once: trials that run at the same time.
            most: trials that fit one device.
        """
        slots = max(1, min(most, math.ceil(trials_at_once / self.num_devices)))
        while slots < most and self.capacity(slots) < trials_at_once:
            slots += 1
        return slots

    def resources_per_trial(self, slots_per_device: int) -> dict[str, float]:
        """Return what one trial asks for, by Ray's names of resources.

        On GPUs a trial also takes its part of the node's CPUs, at most one, so that CPUs never leave a slot
        empty. On CPUs the share is of the largest node: no node holds more than its slots.

        Args:
            slots_per_device: trials that share a device, at least 1.
        """
        if self.kind == "cuda":
            cpus = min(node.cpus / (int(node.gpus) * slots_per_device) for node in self.nodes)
            cpu_share = _share(min(cpus, 1.0)) if cpus else 0.0
            return {"CPU": cpu_share, "GPU": _share(1 / slots_per_device)}
        return {"CPU": _share(max(node.cpus for node in self.nodes) / slots_per_device)}

    def capacity(self, slots_per_device: int) -> int:
        """Return how many trials of `slots_per_device` a device the cluster holds at once."""
        if self.kind == "cuda":
            return self.num_devices * slots_per_device
        share = _granules(self.resources_per_trial(slots_per_device)["CPU"])
        return sum(_granules(node.cpus) // share for node in self.nodes)


@dataclass(frozen=True)
class Slots:
    """The slots of a running search, counted on the cluster as it is at the moment.

    Attributes:
        kind: see `Placement`.
        share: what one trial takes of a device, by Ray's names of resources; fixed when the search starts.
        most: trials that fit one device.
        max_devices: devices that the search may ask for, there or not; `None`: those that are there.
    """

    kind: Literal["cpu", "cuda"]
    share: Mapping[str, float]
    most: int
    max_devices: int | None = None

    def capacity(self, nodes: Sequence[Mapping[str, Any]], scope: Scope) -> int:
        """Return how many trials may run or be requested at once, at least 1.

        With `max_devices`, more is requested than is there, which is what an autoscaler acts on. At least one
        request stays pending on a cluster that has lost all its devices, so that the search can continue.

        Args:
            nodes: as `ray.nodes()` lists them.
            scope: those that may be used.
        """
        unit = "GPU" if self.kind == "cuda" else "CPU"
        per_device = (
            min(self.most, _GRANULES // _granules(self.share[unit])) if self.kind == "cuda" else self.most
        )
        if self.max_devices is not None:
            return max(1, self.max_devices * per_device)
        return max(1, sum(self._on_node(node, per_device) for node in _usable(nodes, scope)))

    def _on_node(self, node: Node, per_device: int) -> int:
        cpus = _granules(node.cpus) // share if (share := _granules(self.share["CPU"])) else math.inf
        devices = int(node.gpus) if self.kind == "cuda" else 1
        return int(min(cpus, devices * per_device))


def _device() -> tuple[str, str]:
    return ray.get_runtime_context().get_node_id(), str(ray.get_gpu_ids()[0])


def devices(
    prefer: Prefer,
    scope: Scope,
    *,
    can_grow: bool = False,
    say: Callable[[str], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Placement:
    """Find the devices of the cluster that this process is connected to, waiting until there is one.

    While it waits, a request for one device is pending, so that an autoscaler starts a node.

    Args:
        prefer: `auto` takes the GPUs if there is one.
        scope: the nodes that may be used.
        can_grow: whether an autoscaler may start nodes that are not there yet.
        say: takes one line about what is waited for.
        sleep: waits, in seconds.

    Raises:
        ClusterError: `cuda` is asked for, no node has a GPU, and the cluster cannot grow.
    """
    if (nodes := _usable(ray.nodes(), scope)) and (found := _chosen(prefer, nodes)):
        return found
    if prefer == "cuda" and not can_grow and any(node.cpus for node in nodes):
        raise _no_gpu(nodes)
    wanted = {"GPU": 1.0} if prefer == "cuda" else {"CPU": 1.0}
    unit = "GPU" if prefer == "cuda" else "CPU"
    say(
        f"waiting for a node with a {unit}{_conditions(scope)}: the cluster has {_summary(nodes)}. "
        "A request is pending; Ctrl-C ends the wait."
    )
    pending = scope.request(wanted).to_placement_group()
    try:
        while (found := _chosen(prefer, _usable(ray.nodes(), scope))) is None:
            sleep(_POLL_S)
        return found
    finally:
        remove_placement_group(pending)


def choose(prefer: Prefer, nodes: Sequence[Mapping[str, Any]], scope: Scope = Scope()) -> Placement:
    """Choose the devices among `nodes`, in the form that `ray.nodes()` lists them.

    Raises:
        ClusterError: `cuda` is asked for and no node has a GPU, or no node offers a CPU.
    """
    usable = _usable(nodes, scope)
    found = _chosen(prefer, usable)
    if found is not None:
        return found
    if prefer == "cuda":
        raise _no_gpu(usable)
    raise ClusterError(
        f"engine.device '{prefer}': no live node of the cluster offers a CPU to train on"
        f"{_conditions(scope)}. Start a node with CPUs (`ray start --address=HEAD:6379 --num-cpus=N`)."
    )


def _usable(nodes: Sequence[Mapping[str, Any]], scope: Scope) -> list[Node]:
    return [
        Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0), node["NodeID"])
        for node in nodes
        if scope.allows(node)
    ]


def _chosen(prefer: Prefer, nodes: Sequence[Node]) -> Placement | None:
    with_gpu = tuple(node for node in nodes if node.gpus >= 1)
    with_cpu = tuple(node for node in nodes if node.cpus > 0)
    if with_gpu and prefer != "cpu":
        return Placement("cuda", with_gpu)
    return Placement("cpu", with_cpu) if with_cpu and prefer != "cuda" else None


def _no_gpu(nodes: Sequence[Node]) -> ClusterError:
    return ClusterError(
        f"engine.device 'cuda': the cluster has {_summary(nodes)}. Set engine.device to auto or cpu, "
        "attach to a cluster with GPUs (--cluster.address auto), or set cluster.max_devices if an autoscaler "
        "starts nodes with GPUs."
    )


def _summary(nodes: Sequence[Node]) -> str:
    return f"{len(nodes)} node(s) with {sum(node.cpus for node in nodes):g} CPUs and no GPU"


def _conditions(scope: Scope) -> str:
    """Return what the configuration demands of a node, as the end of a clause; empty if nothing."""
    demands = [f"{name} {amount:g}" for name, amount in scope.resources.items()]
    demands += [f"{name}={value}" for name, value in scope.labels.items()]
    return f" and {', '.join(demands)}" if demands else ""


def _granules(amount: float) -> int:
    # The small term undoes what binary fractions lose: 0.0003 * 10000 is 2.9999999999999996.
    return math.floor(amount * _GRANULES + 1e-6)


def _share(amount: float) -> float:
    """Round down to what Ray can count, but not to nothing, which Ray would take as no limit."""
    return max(_granules(amount), 1) / _GRANULES
