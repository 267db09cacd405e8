"""Follows the cluster while a search runs: nodes that join and are lost, and trials that their faults end.

A node that joins is used at once. A trial that fails is started again from its last checkpoint; a fault uses
up one of its retries only if the trial has not got further since its last one and no node was lost or found
unfit in between. So a trial outlives any number of lost machines, and one that cannot get on still ends.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune as ray_tune
from ray.actor import ActorHandle
from ray.tune.experiment import Trial

from cluster.placement import Placement, exclude
from trainable.records import MetricsRecord
from tune.search.trial_source import TrialSource

MAX_RETRIES = 3
"""How often a trial that gets no further is started again."""
_POLL_S = 2.0
_SILENT_S = 20.0
"""How long trials may wait for a slot before a line says so."""


@dataclass(frozen=True)
class _Fault:
    """What was known when a trial failed: its step, and the nodes lost or found unfit until then."""

    step: int = 0
    nodes_gone: int = 0


class ClusterWatch(ray_tune.Callback):
    """Adapts a running search to its cluster.

    Args:
        hosts: knows the nodes that were found unfit.
        placement: where trials may run.
        slots: trials that share a device.
        source: gives Ray the trials.
        at_once: trials that may run at the same time.
        max_devices: devices that the search may use; an autoscaler is asked for those that are missing.
            `None`: those that there are.
        say: receives a line for a person.
        nodes: lists the cluster's nodes as `ray.nodes()` does.
        clock: a clock in seconds that never goes back.
    """

    def __init__(
        self,
        hosts: ActorHandle,
        placement: Placement,
        *,
        slots: int,
        source: TrialSource,
        at_once: int,
        max_devices: int | None,
        say: Callable[[str], None],
        nodes: Callable[[], Sequence[Mapping[str, Any]]] = ray.nodes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hosts = hosts
        self._placement = placement
        self._slots = slots
        self._source = source
        self._at_once = at_once
        self._max_devices = max_devices
        self._say = say
        self._nodes = nodes
        self._clock = clock
        self._alive = {node["NodeID"]: _place(node) for node in nodes() if node["Alive"]}
        self._nodes_gone = 0
        self._unfit: set[str] = set()
        self._faults: dict[str, _Fault] = {}
        self._next_look = clock()
        self._waiting_since: float | None = None
        self._concurrent = 0
        self._adapt()

    @property
    def concurrent(self) -> int:
        """Trials that Ray has at once, running or waiting for a slot."""
        return self._concurrent

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its callbacks; a copy only has to exist."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Look at the cluster now and then."""
        if self._clock() < self._next_look:
            return
        self._next_look = self._clock() + _POLL_S
        self._look()
        self._report_waiting(trials)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Give the trial its retries back unless it got no further and no node was to blame."""
        self._look()
        before = self._faults.get(trial.trial_id, _Fault())
        step = MetricsRecord(trial.last_result or {}).step
        if step > before.step or self._nodes_gone > before.nodes_gone:
            trial.max_failures = trial.num_failures + MAX_RETRIES
        self._faults[trial.trial_id] = _Fault(step, self._nodes_gone)

    def _look(self) -> None:
        """Take note of nodes that joined, were lost or are unfit."""
        alive = {node["NodeID"]: _place(node) for node in self._nodes() if node["Alive"]}
        for node_id in alive.keys() - self._alive.keys():
            self._say(f"node {alive[node_id]} joined")
        for node_id in self._alive.keys() - alive.keys():
            self._nodes_gone += 1
            self._say(f"node {self._alive[node_id]} was lost; its trials resume from their last checkpoints")
        self._alive = alive
        for node_id, reason in ray.get(self._hosts.unfit.remote()).items():
            if node_id not in self._unfit:
                self._unfit.add(node_id)
                self._nodes_gone += 1
                exclude(node_id)
                self._say(f"{reason} It gets no more trials.")
        self._adapt()

    def _adapt(self) -> None:
        """Have as many trials as the devices hold; more, where an autoscaler may start their nodes."""
        capacity = self._placement.capacity(self._slots, self._nodes())
        if self._max_devices is not None:
            capacity = self._max_devices * self._slots
        self._concurrent = max(1, min(self._at_once, capacity))
        self._source.set_max_concurrency(self._concurrent)

    def _report_waiting(self, trials: Sequence[Trial]) -> None:
        """Say once when no trial has had a slot for a while: a full cluster looks like a hang."""
        waiting = [trial for trial in trials if trial.status == Trial.PENDING]
        if not waiting or any(trial.status == Trial.RUNNING for trial in trials):
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = self._clock()
        elif 0 <= self._waiting_since < self._clock() - _SILENT_S:
            self._waiting_since = float("inf")
            self._say(f"{len(waiting)} trials wait for a slot: no node of the cluster has a free one")


def _place(node: Mapping[str, Any]) -> str:
    """Return a node's name for a person."""
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
