"""How devices are shared out: a trial asks Ray for its slot's share of one device.

A device is a GPU, or, on a cluster without GPUs, a node's CPUs. Ray counts resources in ten-thousandths, so a
share is rounded down to one: all slots of a device fit, and never one more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainable.errors import ClusterError

_GRANULES = 10_000
"""The parts that Ray divides one unit of a resource into."""


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

    def slots_for(self, trials_at_once: int, most: int) -> int:
        """Return how many trials share a device so that trials use all devices before they share one.

        Args:
            trials_at_once: trials that run at the same time.
            most: trials that fit one device.
        """
        return max(1, min(most, math.ceil(trials_at_once / self.num_devices)))

    def resources_per_trial(self, slots_per_device: int) -> dict[str, float]:
        """Return what one trial asks for, in the words of `ray.tune.with_resources`.

        On GPUs a trial also takes its part of the node's CPUs, at most one, so that CPUs never leave a slot
        empty. On CPUs the share is of the largest node: no node holds more than its slots.

        Args:
            slots_per_device: trials that share a device, at least 1.
        """
        if self.kind == "cuda":
            cpus = min(node.cpus / (int(node.gpus) * slots_per_device) for node in self.nodes)
            cpu_share = _share(min(cpus, 1.0)) if cpus else 0.0
            return {"cpu": cpu_share, "gpu": _share(1 / slots_per_device)}
        return {"cpu": _share(max(node.cpus for node in self.nodes) / slots_per_device)}

    def capacity(self, slots_per_device: int) -> int:
        """Return how many trials of `slots_per_device` a device the cluster holds at once."""
        if self.kind == "cuda":
            return self.num_devices * slots_per_device
        share = _granules(self.resources_per_trial(slots_per_device)["cpu"])
        return sum(_granules(node.cpus) // share for node in self.nodes)


def _gpu_id() -> str:
    return str(ray.get_gpu_ids()[0])


def devices(prefer: Literal["auto", "cpu", "cuda"]) -> Placement:
    """Find the devices of the cluster that this process is connected to.

    Args:
        prefer: `auto` takes the GPUs if there is one.

    Raises:
        ClusterError: `cuda` is asked for and no node has a GPU, or no node offers a CPU.
    """
    return choose(prefer, ray.nodes())


def choose(prefer: Literal["auto", "cpu", "cuda"], nodes: Sequence[Mapping[str, Any]]) -> Placement:
    """Choose the devices among `nodes`, in the form that `ray.nodes()` lists them.

    Raises:
        ClusterError: as in `devices`.
    """
    live = [
        Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0), node["NodeID"])
        for node in nodes
        if node["Alive"]
    ]
    with_gpu = tuple(node for node in live if node.gpus >= 1)
    with_cpu = tuple(node for node in live if node.cpus > 0)
    if with_gpu and prefer != "cpu":
        return Placement("cuda", with_gpu)
    found = f"{len(live)} node(s) with {sum(node.cpus for node in live):g} CPUs and no GPU"
    if prefer == "cuda":
        raise ClusterError(
            f"engine.device 'cuda': the cluster has {found}. Set engine.device to auto or cpu, "
            "or attach to a cluster with GPUs (--cluster.address auto)."
        )
    if not with_cpu:
        raise ClusterError(
            f"engine.device '{prefer}': no live node of the cluster offers a CPU to train on. "
            "Start a node with CPUs (`ray start --address=HEAD:6379 --num-cpus=N`)."
        )
    return Placement("cpu", with_cpu)


def _granules(amount: float) -> int:
    # The small term undoes what binary fractions lose: 0.0003 * 10000 is 2.9999999999999996.
    return math.floor(amount * _GRANULES + 1e-6)


def _share(amount: float) -> float:
    """Round down to what Ray can count, but not to nothing, which Ray would take as no limit."""
    return max(_granules(amount), 1) / _GRANULES
