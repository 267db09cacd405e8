"""How devices are shared out: a trial asks Ray for its slot's share of one device.

A device is a GPU, or, on a cluster without GPUs, a node's CPUs. Ray counts resources in ten-thousandths, so a
share is rounded down to one: all slots of a device fit, and never one more.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.tune import PlacementGroupFactory
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainable.errors import ClusterError

_GRANULES = 10_000
"""The parts that Ray divides one unit of a resource into."""
_NODE_LABEL = "ray.io/node-id"
_POLL_S = 1.0

_excluded: set[str] = set()
"""The ids of nodes that get no trial of this process any more; an id is never used twice."""


def exclude(node_id: str) -> None:
    """Give a node no trial any more; those that run on it stay."""
    _excluded.add(node_id)


class Slot(PlacementGroupFactory):
    """One trial's share of a device, on a node with certain labels that is not excluded by then."""

    def __init__(self, resources: Mapping[str, float], labels: Mapping[str, str]) -> None:
        """Ask for `resources` on a node that has all of `labels`."""
        super().__init__([dict(resources)])
        self._labels = dict(labels)

    def to_placement_group(self) -> PlacementGroup:
        """Ask Ray for the share; called once for each trial's actor."""
        labels = dict(self._labels)
        if _excluded:
            labels[_NODE_LABEL] = f"!in({','.join(sorted(_excluded))})"
        return placement_group(self.bundles, bundle_label_selector=[labels] if labels else None)


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
        labels: what a node has to be labelled with to be one of them.
    """

    kind: Literal["cpu", "cuda"]
    nodes: tuple[Node, ...]
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_devices(self) -> int:
        """GPUs, or nodes where there are none."""
        return sum(int(node.gpus) for node in self.nodes) if self.kind == "cuda" else len(self.nodes)

    def first_device(self) -> tuple[str, str]:
        """Return the ids of a node and of a GPU on it, empty for the CPU: where the first trials will be.

        Ray is asked for the GPU: its ids are those that the node's `CUDA_VISIBLE_DEVICES` allows, any number,
        a UUID or a MIG device.
        """
        node_id = self.nodes[0].node_id
        if self.kind == "cpu":
            return node_id, ""
        on_node = NodeAffinitySchedulingStrategy(node_id, soft=False)
        share = ray.remote(_gpu_id).options(num_cpus=0, num_gpus=1 / _GRANULES, scheduling_strategy=on_node)
        return node_id, ray.get(share.remote())

    def slots_for(self, trials_at_once: int, most: int, max_devices: int | None = None) -> int:
        """Return how many trials share a device so that trials use all devices before they share one.

        Args:
            trials_at_once: trials that run at the same time.
            most: trials that fit one device.
            max_devices: devices that there may be later; `None`: no more than now.
        """
        return max(1, min(most, math.ceil(trials_at_once / (max_devices or self.num_devices))))

    def slot(self, slots_per_device: int) -> Slot:
        """Return what one trial asks Ray for."""
        return Slot(self.resources_per_trial(slots_per_device), self.labels)

    def resources_per_trial(self, slots_per_device: int) -> dict[str, float]:
        """Return the resources of one trial, by Ray's names.

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

    def capacity(self, slots_per_device: int, nodes: Sequence[Mapping[str, Any]] | None = None) -> int:
        """Return how many trials of `slots_per_device` a device the cluster holds at once.

        Args:
            slots_per_device: trials that share a device.
            nodes: the cluster's nodes of now, as `ray.nodes()` lists them; `None`: those of the placement.
        """
        usable = self.nodes if nodes is None else _usable(nodes, self.labels)
        if self.kind == "cuda":
            return sum(int(node.gpus) for node in usable) * slots_per_device
        share = _granules(self.resources_per_trial(slots_per_device)["CPU"])
        return sum(_granules(node.cpus) // share for node in usable)


def _gpu_id() -> str:
    return str(ray.get_gpu_ids()[0])


def devices(
    prefer: Literal["auto", "cpu", "cuda"],
    *,
    labels: Mapping[str, str] | None = None,
    wait_s: float = 0.0,
    say: Callable[[str], None] = lambda text: None,
) -> Placement:
    """Find the devices of the cluster that this process is connected to.

    A cluster may have no node for trials yet: a head without CPUs, whose autoscaler starts workers when they
    are asked for. It is asked, and waited for.

    Args:
        prefer: `auto` takes the GPUs if there is one.
        labels: what a node has to be labelled with.
        wait_s: the longest to wait for a first device, in seconds.
        say: receives a line when there is something to wait for.

    Raises:
        ClusterError: `cuda` is asked for and no node has a GPU, or no node offers a CPU.
    """
    until = time.monotonic() + wait_s
    asked: PlacementGroup | None = None
    try:
        while True:
            try:
                return choose(prefer, ray.nodes(), labels or {})
            except ClusterError as error:
                if time.monotonic() >= until:
                    raise
                if asked is None:
                    say(f"waiting up to {wait_s:g} s for a node: {str(error).split('. ')[0]}")
                    kind = "GPU" if prefer == "cuda" else "CPU"
                    asked = placement_group(
                        [{kind: 1.0}], bundle_label_selector=[dict(labels)] if labels else None
                    )
            time.sleep(_POLL_S)
    finally:
        if asked is not None:
            ray.util.remove_placement_group(asked)


def choose(
    prefer: Literal["auto", "cpu", "cuda"],
    nodes: Sequence[Mapping[str, Any]],
    labels: Mapping[str, str] | None = None,
) -> Placement:
    """Choose the devices among `nodes`, in the form that `ray.nodes()` lists them.

    Raises:
        ClusterError: as in `devices`.
    """
    labels = labels or {}
    live = _usable(nodes, labels)
    with_gpu = tuple(node for node in live if node.gpus >= 1)
    with_cpu = tuple(node for node in live if node.cpus > 0)
    if with_gpu and prefer != "cpu":
        return Placement("cuda", with_gpu, labels)
    labelled = f" labelled {', '.join(f'{name}={value}' for name, value in labels.items())}" if labels else ""
    found = f"{len(live)} node(s){labelled} with {sum(node.cpus for node in live):g} CPUs and no GPU"
    if prefer == "cuda":
        raise ClusterError(
            f"engine.device 'cuda': the cluster has {found}. Set engine.device to auto or cpu, "
            "or attach to a cluster with GPUs (--cluster.address auto)."
        )
    if not with_cpu:
        raise ClusterError(
            f"engine.device '{prefer}': no live node{labelled} of the cluster offers a CPU to train on. "
            "Start a node with CPUs (`ray start --address=HEAD:6379 --num-cpus=N`)."
        )
    return Placement("cpu", with_cpu, labels)


def _usable(nodes: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> tuple[Node, ...]:
    """Return the live nodes with all `labels` that are not excluded."""
    return tuple(
        Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0), node["NodeID"])
        for node in nodes
        if node["Alive"]
        and node["NodeID"] not in _excluded
        and labels.items() <= (node.get("Labels") or {}).items()
    )


def _granules(amount: float) -> int:
    # The small term undoes what binary fractions lose: 0.0003 * 10000 is 2.9999999999999996.
    return math.floor(amount * _GRANULES + 1e-6)


def _share(amount: float) -> float:
    """Round down to what Ray can count, but not to nothing, which Ray would take as no limit."""
    return max(_granules(amount), 1) / _GRANULES
