import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import placement
from cluster.placement import Node, Placement, Scope, choose
from trainable.errors import ClusterError


def node(cpus: float = 0, gpus: float = 0, *, alive: bool = True) -> dict[str, Any]:
    """One entry as `ray.nodes()` lists it: a resource that a node lacks has no key."""
    resources = {"CPU": float(cpus)} if cpus else {}
    if gpus:
        resources["GPU"] = float(gpus)
    return {"Alive": alive, "NodeID": "n", "Resources": resources | {"memory": 1e9}}


def granules(amount: float) -> int:
    """What Ray makes of an amount: whole ten-thousandths."""
    return round(amount * 10_000)


@pytest.mark.parametrize(
    ("prefer", "nodes", "kind", "num_devices"),
    [
        ("auto", [node(8, 2), node(4, 1)], "cuda", 3),
        ("cuda", [node(8, 2), node(4)], "cuda", 2),
        ("cpu", [node(8, 2), node(4)], "cpu", 2),
        ("auto", [node(2)], "cpu", 1),
        ("auto", [node(2), node(64, 8, alive=False)], "cpu", 1),
        ("auto", [node(0), node(16)], "cpu", 1),
    ],
)
def test_devices_are_gpus_where_there_are_some_and_wanted(
    prefer: Any, nodes: list[dict[str, Any]], kind: str, num_devices: int
) -> None:
    found = choose(prefer, nodes)
    assert (found.kind, found.num_devices) == (kind, num_devices)


def test_cuda_without_a_gpu_says_what_was_found_and_what_to_do() -> None:
    with pytest.raises(ClusterError, match=r"engine.device 'cuda'.*2 node\(s\) with 6 CPUs.*auto or cpu"):
        choose("cuda", [node(2), node(4)])


def test_a_cluster_without_cpus_is_refused() -> None:
    with pytest.raises(ClusterError, match="no live node of the cluster offers a CPU"):
        choose("auto", [node(0), node(8, alive=False)])


def test_devices_asks_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement.ray, "nodes", lambda: [node(12, 1)])
    assert placement.devices("auto", Scope()) == Placement("cuda", (Node(12, 1, "n"),))


@pytest.mark.parametrize(
    ("found", "slots", "resources", "capacity"),
    [
        (Placement("cpu", (Node(2, 0, "n"),)), 4, {"CPU": 0.5}, 4),
        (Placement("cpu", (Node(2, 0, "n"),)), 3, {"CPU": 0.6666}, 3),
        (Placement("cpu", (Node(2, 0, "n"), Node(8, 0, "n"))), 4, {"CPU": 2.0}, 5),
        (Placement("cuda", (Node(16, 1, "n"),)), 8, {"CPU": 1.0, "GPU": 0.125}, 8),
        (Placement("cuda", (Node(2, 1, "n"),)), 3, {"CPU": 0.6666, "GPU": 0.3333}, 3),
        (Placement("cuda", (Node(64, 2, "n"), Node(4, 2, "n"))), 4, {"CPU": 0.5, "GPU": 0.25}, 16),
        (Placement("cuda", (Node(0, 1, "n"),)), 2, {"CPU": 0.0, "GPU": 0.5}, 2),
    ],
)
def test_shares_and_capacity(
    found: Placement, slots: int, resources: dict[str, float], capacity: int
) -> None:
    assert found.resources_per_trial(slots) == resources
    assert found.capacity(slots) == capacity


@given(gpus=st.integers(1, 8), cpus=st.integers(1, 256), slots=st.integers(1, 99))
def test_all_slots_of_a_gpu_fit_and_never_one_more(gpus: int, cpus: int, slots: int) -> None:
    share = Placement("cuda", (Node(cpus, gpus, "n"),)).resources_per_trial(slots)
    assert slots * granules(share["GPU"]) <= 10_000 < (slots + 1) * granules(share["GPU"])
    assert gpus * slots * granules(share["CPU"]) <= cpus * 10_000


@given(cpus=st.lists(st.integers(1, 256), min_size=1, max_size=5), slots=st.integers(1, 99))
def test_no_cpu_node_holds_more_than_its_slots(cpus: list[int], slots: int) -> None:
    found = Placement("cpu", tuple(Node(count, 0, "n") for count in cpus))
    share = granules(found.resources_per_trial(slots)["CPU"])
    held = [count * 10_000 // share for count in cpus]
    assert max(held) == slots
    assert found.capacity(slots) == sum(held)


def test_a_share_is_never_nothing_which_ray_takes_as_no_limit() -> None:
    assert Placement("cuda", (Node(1, 1, "n"),)).resources_per_trial(50_000)["GPU"] == 0.0001


def test_the_first_cpu_device_is_the_first_node() -> None:
    assert Placement("cpu", (Node(2, 0, "head"), Node(4, 0, "other"))).first_device() == ("head", "")


@pytest.mark.parametrize(
    ("gpus", "trials", "fit", "slots"),
    [(1, 16, 8, 8), (8, 16, 64, 2), (8, 4, 64, 1), (2, 5, 64, 3), (4, 100, 8, 8)],
)
def test_trials_use_every_device_before_they_share_one(gpus: int, trials: int, fit: int, slots: int) -> None:
    assert Placement("cuda", (Node(64, gpus, "n"),)).slots_for(trials, fit) == slots


ASK = """
import ray
from cluster.placement import Scope, devices

ray.init(num_cpus=1, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")

@ray.remote(num_gpus=0.5)
def trial():
    return str(ray.get_gpu_ids()[0])

_, gpu = devices("auto", Scope()).first_device()
print("first", gpu, "trial", ray.get(trial.remote()))
"""


@pytest.mark.ray
def test_the_first_gpu_is_one_that_this_node_may_use() -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "5,7"}
    done = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, env=environment, check=False
    )
    assert "first 5 trial 5" in done.stdout, done.stdout + done.stderr
