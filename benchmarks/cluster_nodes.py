"""A Ray cluster of several nodes on one machine, for tests and benchmarks.

A node is a raylet with its own address and number of CPUs; nodes share the machine's files. For root on
Linux, each node can also have a network of its own: a network namespace that a bridge connects to the head.
Such a node can be cut off as a machine is when its cable is pulled: its processes live on, and nothing
reaches them.
"""

import contextlib
import functools
import itertools
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from tune.store.experiment import ExperimentStore
from tune.store.reader import read


@dataclass(frozen=True)
class Node:
    """A node of the cluster.

    Attributes:
        node_id: Ray's identifier.
        handle: Ray's object of a node in the machine's network; `None` for one with a network of its own.
        namespace: of a node with a network of its own.
    """

    node_id: str
    handle: Any = None
    namespace: str | None = None

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the node."""
        if self.namespace is not None:
            pids = _ip("netns", "pids", self.namespace).split()
        else:
            pids = [started.process.pid for started in self.handle.all_processes["raylet"]]
        found = []
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(pid))
                found += [process] if self.namespace is not None else process.children(recursive=True)
        return found


@functools.cache
def can_isolate() -> bool:
    """Return whether nodes can have networks of their own here: it needs root, Linux and `ip`."""
    try:
        network = _Network()
        network.join(1)
        network.close()
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


class LocalNodes:
    """A Ray cluster of several nodes; the head, where the driver is, has no CPUs.

    Attributes:
        address: of the cluster.
        host: an address of this machine that every node reaches.
        nodes: those that live, without the head.
    """

    def __init__(self, cpus: Sequence[int], *, own_networks: bool = False) -> None:
        """Start a head, and a node for each number of CPUs.

        Args:
            cpus: of each node.
            own_networks: give each node a network of its own; see `can_isolate`.
        """
        self._network = _Network() if own_networks else None
        self.host = "127.0.0.1" if self._network is None else self._network.address(0)
        head: dict[str, Any] = {"num_cpus": 0, "include_dashboard": False}
        if self._network is not None:
            head["node_ip_address"] = self.host
        self._cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=True)
        self.address = self._cluster.address
        self.nodes: list[Node] = []
        self._added = 0
        for count in cpus:
            self.add(count)

    def add(self, cpus: int, **options: Any) -> Node:
        """Start another node; `options` are those of Ray's `add_node`, without a network of its own."""
        self._added += 1
        if self._network is not None:
            node = self._start_apart(self._network, cpus)
        else:
            address = f"127.0.0.{1 + self._added}"
            handle = self._cluster.add_node(num_cpus=cpus, node_ip_address=address, wait=True, **options)
            node = Node(handle.node_id, handle)
        self.nodes.append(node)
        return node

    def kill(self, node: Node) -> None:
        """Kill a node and all its processes at once."""
        self.nodes.remove(node)
        if node.handle is not None:
            self._cluster.remove_node(node.handle, allow_graceful=False)
            return
        for process in node.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def cut_off(self, node: Node) -> None:
        """Let no more packets through to or from a node that has a network of its own."""
        self._link(node, "down")

    def reconnect(self, node: Node) -> None:
        """Let packets through again."""
        self._link(node, "up")

    def workers(self, name: str, node: Node | None = None) -> list[psutil.Process]:
        """Return the processes of a node, or of the head, that run an actor of this class."""
        found = []
        for process in (node or Node("", self._cluster.head_node)).processes():
            with contextlib.suppress(psutil.Error):
                if f"ray::{name}" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def fullest(self, store: ExperimentStore) -> Node:
        """Return the node that most running trials of an experiment have last reported from."""
        last = [trial.records[-1] for trial in read(store).trials if trial.records]
        held = Counter(record["node_id"] for record in last if not record.state.is_terminal)
        return max(self.nodes, key=lambda node: held[node.node_id])

    def close(self) -> None:
        """Stop all nodes."""
        if self._network is not None:
            for node in [*self.nodes]:
                self.kill(node)
        self._cluster.shutdown()
        if self._network is not None:
            self._network.close()

    def _start_apart(self, network: "_Network", cpus: int) -> Node:
        namespace, address = network.join(self._added)
        ray = Path(sys.executable).with_name("ray")
        words = ["start", "--address", self.address, "--node-ip-address", address, "--num-cpus", str(cpus)]
        subprocess.run(
            ["ip", "netns", "exec", namespace, str(ray), *words],
            check=True,
            capture_output=True,
        )
        table = self._cluster.global_state.node_table()
        node_id = next(row["NodeID"] for row in table if row["NodeManagerAddress"] == address)
        return Node(node_id, namespace=namespace)

    def _link(self, node: Node, state: str) -> None:
        if self._network is None or node.namespace is None:
            raise ValueError("only a node with a network of its own can be cut off")
        _ip("link", "set", self._network.link(node.namespace), state)


class _Network:
    """A bridge, and namespaces that are connected to it."""

    _numbers = itertools.count()

    def __init__(self) -> None:
        self._number = (os.getpid() * 7 + next(self._numbers)) % 200
        self._bridge = f"lt{os.getpid() % 100000}-{self._number}"
        self._namespaces: list[str] = []
        _ip("link", "add", "name", self._bridge, "type", "bridge")
        _ip("address", "add", f"{self.address(0)}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    def address(self, member: int) -> str:
        """Return the address of a member; 0 is this machine."""
        return f"10.77.{self._number}.{1 + member}"

    def link(self, namespace: str) -> str:
        """Return this machine's end of the cable to a namespace."""
        return f"{self._bridge[2:]}v{self._namespaces.index(namespace)}"

    def join(self, member: int) -> tuple[str, str]:
        """Make a namespace; returns its name and address."""
        namespace, address = f"{self._bridge}n{member}", self.address(member)
        self._namespaces.append(namespace)
        _ip("netns", "add", namespace)
        link = self.link(namespace)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("link", "set", link, "master", self._bridge, "up")
        inside = ("-netns", namespace)
        _ip(*inside, "address", "add", f"{address}/24", "dev", "eth0")
        _ip(*inside, "link", "set", "eth0", "up")
        _ip(*inside, "link", "set", "lo", "up")
        return namespace, address

    def close(self) -> None:
        """Kill what still runs in the namespaces, and remove all."""
        for namespace in self._namespaces:
            for pid in _ip("netns", "pids", namespace).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _ip("netns", "delete", namespace)
        _ip("link", "delete", self._bridge)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def local_nodes(*cpus: int, own_networks: bool = False) -> Iterator[LocalNodes]:
    """Have a cluster inside the `with` block."""
    cluster = LocalNodes(cpus, own_networks=own_networks)
    try:
        yield cluster
    finally:
        cluster.close()
