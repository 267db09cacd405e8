"""How many trials a search runs at once, and where, as its cluster changes."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune import PlacementGroupFactory

from trainable.errors import ClusterError
from tune.config import Config
from tune.search import capacity as module
from tune.search.capacity import Capacity
from tune.search.faults import Fault


class FakeCluster:
    """Stands in for the module `ray`: the nodes that a test gives it; this process is on the first."""

    def __init__(self, *cpus: int) -> None:
        self.listed: list[dict[str, Any]] = []
        for count in cpus:
            self.add(count)

    def add(self, cpus: int) -> None:
        resources = {"CPU": float(cpus)} if cpus else {}
        self.listed.append({"NodeID": f"n{len(self.listed)}", "Alive": True, "Resources": resources})

    def nodes(self) -> list[dict[str, Any]]:
        return self.listed

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "n0")

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": sum(node["Resources"].get("CPU", 0.0) for node in self.listed)}

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 0.5}


def divided(
    monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster, most: int = 2, **settings: Any
) -> Capacity:
    monkeypatch.setattr(module, "ray", cluster)
    monkeypatch.setattr("cluster.placement.ray", cluster)
    config = Config.model_validate({"search": {"num_trials": 100}, "cluster": settings})
    capacity = Capacity(config, lambda line: None, may_wait=True)
    capacity.divide(capacity.devices(), most)
    return capacity


def test_nodes_that_join_and_die_change_the_number_of_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(0, 2, 2)
    capacity = divided(monkeypatch, cluster)
    limits = [capacity.limit()]
    cluster.add(4)
    limits.append(capacity.limit())
    for node in cluster.listed[1:3]:
        node["Alive"] = False
        limits.append(capacity.limit())
    assert limits == [4, 6, 4, 2]


def test_a_node_that_is_given_up_gets_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    capacity = divided(monkeypatch, FakeCluster(0, 2, 2))
    capacity.faults.add("t", Fault("NodeError: other rows", "actor", "n2", is_unfit=True))
    assert capacity.limit() == 2
    assert capacity.request(capacity.faults.excluded) == PlacementGroupFactory(
        [{"CPU": 1.0}], bundle_label_selector=[{"ray.io/node-id": "!in(n2)"}]
    )
    assert [node.node_id for node in capacity.devices().nodes] == ["n1"]


def test_an_autoscaler_is_asked_for_as_many_devices_as_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert divided(monkeypatch, FakeCluster(0, 2), max_devices=10).limit() == 20


def test_the_drivers_node_can_be_kept_free(monkeypatch: pytest.MonkeyPatch) -> None:
    capacity = divided(monkeypatch, FakeCluster(8, 2), use_driver_node=False)
    assert (capacity.limit(), [node["NodeID"] for node in capacity.among(module.ray.nodes())]) == (2, ["n1"])
    config = Config.model_validate({"cluster": {"use_driver_node": False}})
    with pytest.raises(ClusterError, match=r"use_driver_node is false.*--cluster\.address"):
        Capacity(config, lambda line: None, may_wait=False)


def test_what_is_waited_for_is_said_in_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    capacity = divided(monkeypatch, FakeCluster(0, 2, 2))
    assert capacity.lack() == "each needs 1 CPU on one node; 0.5 of 4 CPU are free"
