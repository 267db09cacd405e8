"""The engines of one experiment: an `EngineHost` for each device that its trials are placed on.

Trials ask the experiment's `Hosts` for the host of their node and device; the first to ask has it created.
`Hosts` belongs to the driver and the hosts belong to it, so that all of them end with the driver, however it
ends, and a device is never held by an engine that nobody uses.

A host that dies (killed, out of memory) takes no trial with it: its trials come back with their last
checkpoint, name the host that failed them, and get a new one. `Hosts` itself is restarted if its process
dies; it starts again without hosts, because those of its first life died with it.
"""

import math
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainable.config import TrialConfig
from trainable.errors import ClusterError
from trainable.host import EngineHost, Identity

_LONGEST_BACK_OFF_S = 30.0
_ANSWER_S = 20.0
"""How long a host may take to answer before it counts as dead."""
_ENVIRONMENT = (
    *("HF_TOKEN", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"),
    "OMP_WAIT_POLICY",
)
"""The driver's environment variables that engines get; a node's own value has precedence."""
_STARTS = 3
_MAX_TRIALS = 256
"""Trials that may wait in one host at a time; each holds a thread, which only waits."""


class Hosts:
    """The hosts of one experiment, by node and device."""

    def __init__(self, config: dict[str, Any], environment: Mapping[str, str]) -> None:
        """Remember what hosts are made from.

        Args:
            config: the experiment's `TrialConfig`, as JSON.
            environment: the driver's variables that engines get.
        """
        self._config = config
        self._environment = environment
        self._hosts: dict[tuple[str, str], ActorHandle] = {}
        self._failures: Counter[tuple[str, str]] = Counter()

    def host(
        self,
        node: str,
        gpu: str,
        identity: Identity | None = None,
        failed: ActorHandle | None = None,
    ) -> tuple[ActorHandle, float]:
        """Return the host of a device, and how long the caller should wait before it uses it, in seconds.

        One is created if there is none or it is the one that `failed`. Whatever kills engines one after the
        other may need time to pass; the caller waits, not this actor, which serves all other devices too.

        Args:
            node: Ray's node id.
            gpu: the GPU's id on that node; empty for the CPU.
            identity: what the search's first engine loaded; `None` if this is to be the first.
            failed: the host that the caller saw die.
        """
        device = node, gpu
        present = self._hosts.get(device)
        wait_s = 0.0
        if failed is not None and present == failed:
            self._failures[device] += 1
            wait_s = min(2.0 ** (self._failures[device] - 2), _LONGEST_BACK_OFF_S)
            present = None
        if present is None:
            present = self._hosts[device] = self._create(node, gpu, identity)
        return present, wait_s

    def save_all(self) -> None:
        """Have every host save its trials; what one host cannot save does not keep the others from it."""
        for saving in [host.save_all.remote() for host in self._hosts.values()]:
            with suppress(RayError):
                ray.get(saving)

    def any_host(self) -> ActorHandle | None:
        """Return a host that answers, for work that needs an engine and no device of its own.

        Returns:
            `None` if none does; those that did not answer are forgotten.
        """
        for device, host in list(self._hosts.items()):
            try:
                ray.get(host.saying.remote(), timeout=_ANSWER_S)
                return host
            except RayError:
                del self._hosts[device]
        return None

    def _create(self, node: str, gpu: str, identity: Identity | None) -> ActorHandle:
        # Ray accounts the device to the trials, not to the host, so the host is given the device by name.
        config = self._config
        if gpu and config["engine"]["device"] == "auto":
            # A GPU that torch cannot see must be an error, not training on the CPU.
            config = config | {"engine": config["engine"] | {"device": "cuda"}}
        visible = {"CUDA_VISIBLE_DEVICES": gpu, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        return (
            ray.remote(EngineHost)
            .options(
                num_cpus=0,
                max_concurrency=_MAX_TRIALS,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                runtime_env={"env_vars": visible} if gpu else None,
            )
            .remote(config, identity, self._cores_of(node), self._environment)
        )

    @staticmethod
    def _cores_of(node: str) -> int | None:
        """Return the CPUs that Ray offers on a node, rounded up; `None` if it offers none."""
        offered = {one["NodeID"]: one["Resources"].get("CPU", 0.0) for one in ray.nodes()}
        return math.ceil(offered.get(node, 0.0)) or None


def hosts_name(experiment: str) -> str:
    """Return the name under which an experiment's `Hosts` actor is found."""
    return f"loratune:{experiment}"


def create_hosts(experiment: str, config: TrialConfig) -> ActorHandle:
    """Create the experiment's `Hosts` on this node; it and all its hosts end with this process.

    On any other node it would be one more machine whose loss ends every engine.

    Raises:
        ClusterError: its process does not start.
    """
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # On a busy machine Ray may cancel an actor's creation; only an answer shows that it runs.
    for _ in range(_STARTS):
        hosts = (
            ray.remote(Hosts)
            .options(
                name=hosts_name(experiment),
                num_cpus=0,
                scheduling_strategy=here,
                max_restarts=-1,
                max_task_retries=-1,
            )
            .remote(config.model_dump(mode="json"), environment)
        )
        try:
            ray.get(hosts.any_host.remote())
            return hosts
        except RayActorError as error:
            died = error
    raise ClusterError(
        f"the process that manages engines did not start on this machine: {died}. See ray.log."
    )
