"""Asks every node of a cluster, before anything is trained, for what the search needs of it.

A node with other rows, another base model or other code would train in silence what does not compare; one
that does not share the results folder would lose its checkpoints. Each problem is named with its remedy.
"""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainable import node as node_module
from trainable.config import ModelConfig
from trainable.data import content_hash
from trainable.errors import ClusterError
from trainable.node import Node
from trainable.places import Place, inside, name_of, parent_of, shown
from trainable.software import differences, software
from trainable.stores import delete_at, write_at
from tune.config import Config

_ANSWER_S = 120.0
"""How long a node may take to start a process and answer."""
_CLOCK_SKEW_S = 30.0
_LITTLE_DISK = 1 << 30
_LITTLE_SHARED_MEMORY = 64 << 20
_BYTES = {"auto": 2, "bfloat16": 2, "float16": 2, "float32": 4}
"""Of a weight on a GPU, by `model.dtype`."""
_BYTES_4BIT = 0.5


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at on one node.

    Attributes:
        node: the machine's name.
        what: was looked at.
        found: in words.
        remedy: what to do, if it has to be mended.
        fatal: whether a search must not start with it.
    """

    node: str
    what: str
    found: str
    remedy: str = ""
    fatal: bool = False


def workers() -> list[Mapping[str, Any]]:
    """Return the live nodes that offer a device, as `ray.nodes()` lists them."""
    return [
        node
        for node in ray.nodes()
        if node["Alive"] and (node["Resources"].get("CPU") or node["Resources"].get("GPU"))
    ]


def examine(config: Config, nodes: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Ask the nodes, all at once.

    Args:
        config: the search's, with absolute paths.
        nodes: those that may get trials, as `ray.nodes()` lists them.
    """
    probe = inside(config.search.results_dir, f".loratune-{uuid.uuid4().hex}")
    write_at(probe, name_of(probe))
    asked_at = time.time()
    try:
        asked = {str(node["NodeID"]): _ask(config, node, probe) for node in nodes}
        until = time.monotonic() + _ANSWER_S
        findings = []
        # The search has read the data here before it gets this far.
        here = content_hash(config.data)
        for node in nodes:
            name = str(node["NodeManagerHostname"])
            try:
                left = max(until - time.monotonic(), 0.1)
                answer: Node = ray.get(asked[str(node["NodeID"])], timeout=left)
            except GetTimeoutError:
                remedy = "Look at the node's load and at Ray's logs there (/tmp/ray/session_latest/logs)."
                findings.append(Finding(name, "answer", f"none within {_ANSWER_S:g} s", remedy, fatal=True))
                continue
            except (RayError, ImportError) as error:
                findings.append(_unable(name, error))
                continue
            findings += _judge(answer, node, probe, data=here)
            findings += _fit(answer, config.model)
            findings += _clock(answer, asked_at)
        return findings
    finally:
        delete_at(probe)


def require(findings: Sequence[Finding]) -> None:
    """Check that a search may start.

    Raises:
        ClusterError: a node lacks something; each problem is a line.
    """
    lines = [f"  {one.node}: {one.what}: {one.found}. {one.remedy}" for one in findings if one.fatal]
    if lines:
        raise ClusterError("not every node can run this search:\n" + "\n".join(lines))


def _ask(config: Config, node: Mapping[str, Any], probe: Place) -> ray.ObjectRef:
    on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    answer = ray.remote(node_module.describe).options(num_cpus=0, scheduling_strategy=on_node, max_retries=0)
    return answer.remote(
        config.data,
        config.model,
        config.search.results_dir,
        probe,
        ask_torch="GPU" in node["Resources"],
    )


def _unable(name: str, error: BaseException) -> Finding:
    text = " ".join(str(error).split())
    missing = "No module named" in text
    lines = [line for line in str(error).splitlines() if "Error" in line]
    return Finding(
        name,
        "loratune",
        "is not installed there" if missing else (lines[-1].strip() if lines else text)[:200],
        "Install loratune on every node, or send its code with the search: loratune submit.",
        fatal=True,
    )


def _judge(answer: Node, node: Mapping[str, Any], probe: Place, *, data: str) -> Iterator[Finding]:
    name = answer.name
    versions = ", ".join(f"{part} {version}" for part, version in answer.software.items())
    if difference := differences(answer.software, software()):
        remedy = "Install the same versions on every node, or send the code: loratune submit."
        yield Finding(name, "software", difference, remedy, fatal=True)
    else:
        yield Finding(name, "software", versions)
    results = shown(parent_of(probe))
    if answer.storage == name_of(probe):
        yield Finding(name, "results folder", f"{results} is shared{_gigabytes(answer.disk_free)}")
    elif answer.storage.startswith("!"):
        remedy = "Give every node keys for the store, such as a role of its own, and a way to its address."
        yield Finding(name, "results folder", answer.storage[1:].rstrip("."), remedy, fatal=True)
    else:
        remedy = "Give a folder that every node mounts, or a URI of object storage (--results_dir s3://…)."
        yield Finding(name, "results folder", f"{results} is not shared", remedy, fatal=True)
    if answer.data.startswith("!"):
        remedy = "Copy the data to every node under this path, or put it on storage that all share."
        yield Finding(name, "data", answer.data[1:], remedy, fatal=True)
    elif answer.data != data:
        remedy = "Copy this machine's files there, or put them on storage that all nodes share."
        found = f"other rows than on this machine ({answer.data[:12]}, not {data[:12]})"
        yield Finding(name, "data", found, remedy, fatal=True)
    else:
        yield Finding(name, "data", answer.data[:12])
    if answer.model:
        remedy = "Copy the model to every node under this path, or give a hub name."
        yield Finding(name, "base model", answer.model, remedy, fatal=True)
    for what, free, least in (
        ("disk", answer.disk_free, _LITTLE_DISK),
        ("shared memory", answer.memory_free, _LITTLE_SHARED_MEMORY),
    ):
        if free is not None and free < least:
            remedy = "Free some." if what == "disk" else "Give the container more (--shm-size=2g)."
            yield Finding(name, what, f"{free / 1e9:.2f} GB free", remedy)
    yield from _gpus(answer, int(node["Resources"].get("GPU", 0)))


def _gpus(answer: Node, offered: int) -> Iterator[Finding]:
    """Compare the GPUs that Ray offers on a node with those that torch sees."""
    if offered > len(answer.gpus):
        remedy = "Install a torch build for the node's driver, or start it without GPUs (--num-gpus 0)."
        found = f"Ray offers {offered}, torch sees {len(answer.gpus)}"
        yield Finding(answer.name, "GPUs", found, remedy, fatal=True)
    elif answer.gpus:
        seen = [f"{gpu.name}, {gpu.free / 1e9:.0f} of {gpu.total / 1e9:.0f} GB free" for gpu in answer.gpus]
        yield Finding(answer.name, "GPUs", "; ".join(seen))


def _fit(answer: Node, model: ModelConfig) -> Iterator[Finding]:
    """Compare the base model's weights with the node's largest GPU: a model is not split among GPUs."""
    if answer.parameters is None or not answer.gpus:
        return
    needed = answer.parameters * (_BYTES_4BIT if model.load_in_4bit else _BYTES[model.dtype])
    largest = max(gpu.total for gpu in answer.gpus)
    if needed > largest:
        found = f"{needed / 1e9:.1f} GB of weights, and its largest GPU has {largest / 1e9:.1f} GB"
        remedy = "Take a smaller model, model.load_in_4bit, or nodes with larger GPUs (cluster.labels)."
        yield Finding(answer.name, "base model", found, remedy, fatal=True)


def _clock(answer: Node, asked_at: float) -> Iterator[Finding]:
    """Compare a node's clock with this machine's, between the question and now."""
    skew = max(asked_at - answer.clock, answer.clock - time.time())
    if skew > _CLOCK_SKEW_S:
        remedy = "Let the node set its clock from the network (NTP)."
        yield Finding(answer.name, "clock", f"{skew:.0f} s off", remedy)


def _gigabytes(free: int | None) -> str:
    return f", {free / 1e9:.0f} GB free" if free is not None else ""
