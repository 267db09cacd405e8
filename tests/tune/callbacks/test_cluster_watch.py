"""A search follows its cluster: as many trials as it holds, and no retry lost to a machine."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import placement
from cluster.placement import Node, Placement, Slot, choose
from tune.callbacks import cluster_watch
from tune.callbacks.cluster_watch import MAX_RETRIES, ClusterWatch


def node(name: str, cpus: float = 2, *, alive: bool = True, **labels: str) -> dict[str, Any]:
    return {
        "NodeID": name,
        "Alive": alive,
        "Resources": {"CPU": float(cpus)} if cpus else {},
        "NodeManagerHostname": name,
        "NodeManagerAddress": "10.0.0.1",
        "Labels": labels,
    }


class Source:
    """Takes the limit that the watch sets."""

    limit = 0

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        self.limit = max_concurrent
        return True


@dataclass
class Trial:
    """What the watch may know of a Ray trial."""

    trial_id: str = "t"
    status: str = "RUNNING"
    last_result: dict[str, Any] = field(default_factory=dict)
    max_failures: int = MAX_RETRIES
    num_failures: int = 0

    def fail(self, step: int) -> bool:
        """Fail at a step; return whether Ray would start the trial again."""
        self.num_failures += 1
        self.last_result = {"step": step}
        return self.num_failures <= self.max_failures


class Watched:
    """A watch over a cluster that the test changes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, Any], **options: Any) -> None:
        monkeypatch.setattr(placement, "_excluded", set())
        monkeypatch.setattr(cluster_watch.ray, "get", lambda value: value)
        self.nodes = list(nodes)
        self.now = 0.0
        self.unfit: dict[str, str] = {}
        self.said: list[str] = []
        self.source = Source()
        hosts = SimpleNamespace(unfit=SimpleNamespace(remote=lambda: self.unfit))
        defaults: dict[str, Any] = {"slots": 2, "at_once": 20, "max_devices": None}
        self.watch = ClusterWatch(
            hosts,  # type: ignore[arg-type]
            choose("auto", self.nodes),
            source=self.source,  # type: ignore[arg-type]
            say=self.said.append,
            nodes=lambda: self.nodes,
            clock=lambda: self.now,
            **(defaults | options),
        )

    def step(self, *trials: Trial) -> None:
        self.now += 5
        self.watch.on_step_begin(0, list(trials))  # type: ignore[arg-type]

    def recover(self, trial: Trial) -> None:
        self.watch.on_trial_recover(0, [], trial)  # type: ignore[arg-type]


def test_a_node_that_joins_is_used_and_one_that_is_lost_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, node("head", 0), node("a"))
    assert watched.source.limit == 2
    watched.nodes.append(node("b", 4))
    watched.step()
    assert watched.source.limit == 6
    assert watched.said == ["node b (10.0.0.1) joined"]
    watched.nodes[1]["Alive"] = False
    watched.step()
    assert watched.source.limit == 4
    assert watched.said[1].startswith("node a (10.0.0.1) was lost")


def test_never_more_than_the_search_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Watched(monkeypatch, node("a", 64), slots=8, at_once=3).source.limit == 3


def test_an_autoscaler_is_asked_for_devices_that_are_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Watched(monkeypatch, node("a"), max_devices=5).source.limit == 10


def test_an_unfit_node_gets_no_more_trials_and_costs_none_its_retries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched(monkeypatch, node("a"), node("b"))
    trial = Trial()
    watched.unfit["b"] = "node b has other data."
    trial.fail(0)
    watched.recover(trial)
    assert watched.source.limit == 2
    assert watched.said == ["node b has other data. It gets no more trials."]
    assert trial.max_failures - trial.num_failures == MAX_RETRIES
    asked: list[Any] = []
    monkeypatch.setattr(placement, "placement_group", lambda bundles, **how: asked.append(how))
    Slot({"CPU": 1.0}, {"zone": "x"}).to_placement_group()
    assert asked == [{"bundle_label_selector": [{"zone": "x", "ray.io/node-id": "!in(b)"}]}]


def test_a_trial_that_gets_no_further_ends_after_its_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, trial, starts = Watched(monkeypatch, node("a")), Trial(), 0
    while trial.fail(0):
        watched.recover(trial)
        starts += 1
    assert starts == MAX_RETRIES


def test_a_trial_that_gets_further_each_time_keeps_its_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, trial = Watched(monkeypatch, node("a")), Trial()
    for step in range(10, 200, 10):
        assert trial.fail(step)
        watched.recover(trial)
    for _ in range(MAX_RETRIES):
        assert trial.fail(190)
        watched.recover(trial)
    assert not trial.fail(190)


def test_a_lost_node_costs_no_retry_even_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, trial = Watched(monkeypatch, node("keeps", 1)), Trial()
    for number in range(3 * MAX_RETRIES):
        watched.nodes.append(node(f"spot{number}"))
        watched.step()
        watched.nodes[-1]["Alive"] = False
        assert trial.fail(0)
        watched.recover(trial)


def test_a_full_cluster_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, node("a"))
    waiting = [Trial("x", "PENDING"), Trial("y", "PENDING")]
    for _ in range(12):
        watched.step(*waiting)
    assert watched.said == ["2 trials wait for a slot: no node of the cluster has a free one"]


def test_labels_choose_the_nodes() -> None:
    nodes = [node("a", 2, market="spot"), node("b", 4)]
    assert choose("auto", nodes, {"market": "spot"}).nodes == (Node(2, 0, "a"),)
    assert Placement("cpu", (Node(2, 0, "a"),), {"market": "spot"}).capacity(2, nodes) == 2
