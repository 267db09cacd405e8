import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune import PlacementGroupFactory

from cluster import placement
from cluster.placement import Node, Placement, Scope, Slots, choose
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


def labeled(node_id: str, **labels: str) -> dict[str, Any]:
    return node(4) | {"NodeID": node_id, "Labels": labels}


@pytest.mark.parametrize(
    ("selector", "allowed"),
    [
        ({}, ["a", "b", "c"]),
        ({"zone": "x"}, ["a"]),
        ({"zone": "!x"}, ["b", "c"]),
        ({"zone": "in(x, y)"}, ["a", "b"]),
        ({"zone": "!in(x,y)"}, ["c"]),
        ({"zone": "x", "rack": "1"}, []),
    ],
)
def test_labels_choose_nodes(selector: dict[str, str], allowed: list[str]) -> None:
    nodes = [labeled("a", zone="x"), labeled("b", zone="y"), labeled("c")]
    assert [one["NodeID"] for one in nodes if Scope(selector).allows(one)] == allowed


def test_a_custom_resource_and_excluded_nodes_limit_the_devices() -> None:
    plain, special = labeled("plain"), labeled("special")
    special["Resources"] |= {"licence": 2.0}
    assert choose("auto", [plain, special], Scope(resources={"licence": 0.5})).first_device()[0] == "special"
    assert choose("auto", [plain, special], Scope().without(frozenset({"plain"}))).num_devices == 1
    with pytest.raises(ClusterError, match=r"offers a CPU to train on and licence 0.5, zone=x"):
        choose("auto", [plain], Scope({"zone": "x"}, {"licence": 0.5}))


def test_ray_is_asked_for_the_same_nodes() -> None:
    request = Scope({"zone": "x"}, {"licence": 0.5}, frozenset({"b", "a"})).request({"CPU": 1.0})
    assert request == PlacementGroupFactory(
        [{"CPU": 1.0, "licence": 0.5}],
        bundle_label_selector=[{"zone": "x", "ray.io/node-id": "!in(a,b)"}],
    )
    assert Scope().request({"CPU": 1.0}) == PlacementGroupFactory([{"CPU": 1.0}])


def test_slots_are_counted_on_the_cluster_as_it_is() -> None:
    slots = Slots("cpu", {"CPU": 1.0}, most=6)
    nodes = [node(1), node(2), node(8), node(4, alive=False)]
    assert [slots.capacity(nodes[:count], Scope()) for count in range(5)] == [1, 1, 3, 9, 9]
    gpus = Slots("cuda", {"CPU": 1.0, "GPU": 0.25}, most=4)
    assert gpus.capacity([node(64, 2), node(3, 2), node(8)], Scope()) == 8 + 3
    assert Slots("cuda", {"CPU": 0.0001, "GPU": 0.5}, most=2).capacity([node(4, 3)], Scope()) == 6


def test_more_is_asked_for_than_there_is_so_that_an_autoscaler_acts() -> None:
    assert (
        Slots("cuda", {"CPU": 1.0, "GPU": 0.5}, most=2, max_devices=8).capacity([node(8, 1)], Scope()) == 16
    )


@pytest.mark.parametrize(("cpus", "trials", "most", "slots"), [((1, 1, 2), 4, 8, 2), ((1, 2, 4), 7, 8, 4)])
def test_unequal_nodes_are_all_used(cpus: tuple[int, ...], trials: int, most: int, slots: int) -> None:
    found = Placement("cpu", tuple(Node(count, 0, "n") for count in cpus))
    assert found.slots_for(trials, most) == slots
    assert found.capacity(slots) == trials
