"""The cluster as one search uses it: which nodes, how many trials at once, and what each trial asks Ray for.

Nodes come and go while a search runs. The share of a device that a trial takes is fixed when the search
starts; how many trials that makes at once is counted again and again.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ray
from ray.tune import PlacementGroupFactory

from cluster.placement import Placement, Scope, Slots, choose, devices
from trainable.errors import ClusterError
from tune.config import Config
from tune.search.faults import Faults


class Capacity:
    """How many trials a search runs at once, and where.

    Attributes:
        say: takes a line for the terminal.
        faults: counts the faults of the infrastructure; the nodes that it excludes are left out here.
    """

    def __init__(self, config: Config, say: Callable[[str], None], *, may_wait: bool) -> None:
        """Look at no node yet.

        Args:
            config: the search's; Ray is connected.
            say: takes a line for the terminal.
            may_wait: whether nodes may join; none joins a Ray of this process's own.

        Raises:
            ClusterError: the driver's node is to be kept free, and there cannot be another.
        """
        cluster = config.cluster
        if not (may_wait or cluster.use_driver_node):
            raise ClusterError(
                "cluster.use_driver_node is false, and this Ray has no other node. Join a cluster "
                "(--cluster.address HOST:PORT), or leave the key out."
            )
        driver = frozenset({ray.get_runtime_context().get_node_id()})
        self._scope = Scope(
            cluster.labels, cluster.resources, frozenset() if cluster.use_driver_node else driver
        )
        self._device = config.engine.device
        self._may_wait = may_wait
        self._max_devices = cluster.max_devices
        self._at_once = config.search.max_concurrent or config.search.num_trials
        self.say = say
        self._slots: Slots | None = None
        self.faults = Faults(self._nodes, say)

    @property
    def at_once(self) -> int:
        """The trials at once that the configuration allows, whatever the cluster holds."""
        return self._at_once

    def devices(self) -> Placement:
        """Return the devices that are there; on a cluster that has none yet, wait for the first.

        Raises:
            ClusterError: there is none, and none can be waited for.
        """
        scope = self._scope.without(self.faults.excluded)
        if not self._may_wait:
            return choose(self._device, ray.nodes(), scope)
        return devices(self._device, scope, can_grow=self._max_devices is not None, say=self.say)

    def divide(self, placement: Placement, most: int) -> None:
        """Fix the share of a device that a trial takes.

        Args:
            placement: the devices that are there.
            most: trials that fit one device.
        """
        slots = placement.slots_for(self._at_once, most)
        share = placement.resources_per_trial(slots)
        # A node that joins later may be larger: it may hold more of these shares, up to what fits a device.
        most_on_node = slots if placement.kind == "cuda" else most
        self._slots = Slots(placement.kind, share, most_on_node, self._max_devices)

    def among(self, nodes: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return those of the nodes, in the form that `ray.nodes()` lists them, that the search may use."""
        return [node for node in nodes if self._scope.allows(node)]

    def limit(self) -> int:
        """Return how many trials Ray should have at once, on the cluster as it is now."""
        scope = self._scope.without(self.faults.excluded)
        return min(self._at_once, self._divided.capacity(ray.nodes(), scope))

    def request(self, excluded: frozenset[str] = frozenset()) -> PlacementGroupFactory:
        """Return what one trial asks Ray for.

        Args:
            excluded: the ids of nodes that it must not be placed on.
        """
        return self._scope.without(excluded).request(self._divided.share)

    def lack(self) -> str:
        """Return a clause on what a trial needs and what is free."""
        free, there = ray.available_resources(), ray.cluster_resources()
        needs = {name: amount for name, amount in self.request().required_resources.items() if amount}
        parts = [f"{amount:g} {name}" for name, amount in needs.items()]
        left = [f"{free.get(name, 0):.3g} of {there.get(name, 0):g} {name} are free" for name in needs]
        return f"each needs {' and '.join(parts)} on one node; {', '.join(left)}"

    @property
    def _divided(self) -> Slots:
        assert self._slots is not None, "the devices are divided before trials are placed"
        return self._slots

    def _nodes(self) -> frozenset[str]:
        return frozenset(node["NodeID"] for node in self.among(ray.nodes()))
