"""Searches on real clusters of several nodes, which die, join, are bad, or are not there yet."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cluster_faults import (
    TRIAL,
    RunningSearch,
    differences,
    disturbed,
    outcome,
    reference,
    workload,
)
from benchmarks.cluster_nodes import LocalNodes, local_nodes
from tune.store.reader import read

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def words(micro_base: Path, corpus: Path) -> list[str]:
    return workload(micro_base, corpus)


@pytest.fixture(scope="module")
def expected(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return reference(words, tmp_path_factory.mktemp("reference"))


@pytest.fixture
def cluster() -> Iterator[LocalNodes]:
    with local_nodes(1, 1, 2) as started:
        yield started


def nodes_of(search: RunningSearch) -> set[str]:
    return {record["node_id"] for log in read(search.store).logs.values() for record in log}


def check(search: RunningSearch, expected: list[dict[str, Any]]) -> None:
    """The search is over, nothing is lost or doubled, and the terminal has no traceback."""
    assert search.end() == 0, search.output
    assert "Traceback" not in search.output
    data = read(search.store)
    assert differences(expected, outcome(data)) == []
    for log in data.logs.values():
        steps = [record.step for record in log]
        assert steps == sorted(set(steps))


def test_a_search_survives_the_node_with_most_trials(
    words: list[str], micro_base: Path, tmp_path: Path
) -> None:
    short = [*words, "--trials", "2", "--training.max_steps", "64"]
    with local_nodes(1, 2) as cluster:
        search = RunningSearch(short, "node", tmp_path, cluster.address)
        assert search.wait_for_records(3), search.output
        cluster.kill(cluster.fullest(search.store))
        assert search.end() == 0, search.output
    assert "Traceback" not in search.output
    assert "was interrupted at step" in search.output
    data = read(search.store)
    assert [trial.state.value for trial in data.trials] == ["completed"] * 2
    assert max(trial.attempt for trial in data.trials) == 2
    for log in data.logs.values():
        assert [record.step for record in log] == list(range(8, 65, 8))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["EngineHost", "Hosts", TRIAL])
def test_a_process_that_is_killed_costs_no_trial(
    words: list[str], expected: list[dict[str, Any]], cluster: LocalNodes, tmp_path: Path, name: str
) -> None:
    search = RunningSearch(words, "process", tmp_path, cluster.address)
    assert search.wait_for_records(10), search.output
    node = None if name == "Hosts" else cluster.fullest(search.store)
    victims = cluster.workers(name, node)
    assert victims
    for victim in victims:
        victim.kill()
    check(search, expected)
    assert max(trial.attempt for trial in read(search.store).trials) >= 2


@pytest.mark.slow
def test_a_node_that_joins_is_used(words: list[str], expected: list[dict[str, Any]], tmp_path: Path) -> None:
    with local_nodes(1) as cluster:
        search = RunningSearch(
            [*words, "--engine.slots_per_device", "1"], "joined", tmp_path, cluster.address
        )
        assert search.wait_for_records(3), search.output
        joined = cluster.add(2)
        check(search, expected)
    assert joined.node_id in nodes_of(search)


@pytest.mark.slow
def test_a_head_without_cpus_waits_for_its_first_node(
    words: list[str], expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    with local_nodes() as cluster:
        search = RunningSearch(words, "waits", tmp_path, cluster.address)
        waited = time.monotonic()
        while "waiting for a node with a CPU" not in search.output:
            assert search.process.poll() is None, search.output
            assert time.monotonic() - waited < 60
            time.sleep(0.2)
        cluster.add(2)
        check(search, expected)


@pytest.mark.slow
def test_two_searches_share_a_cluster(
    words: list[str], expected: list[dict[str, Any]], cluster: LocalNodes, tmp_path: Path
) -> None:
    searches = [RunningSearch(words, name, tmp_path, cluster.address) for name in ("one", "two")]
    for search in searches:
        check(search, expected)


@pytest.mark.slow
def test_a_node_on_which_everything_fails_is_given_up(
    words: list[str], expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    with local_nodes(2) as cluster:
        search = RunningSearch(words, "bad", tmp_path, cluster.address)
        assert search.wait_for_records(2), search.output
        bad = cluster.add(2, env_vars={"LORATUNE_CACHE": "/proc/nowhere"})
        check(search, expected)
    assert f"node {bad.node_id[:8]} is not used: NodeError" in search.output
    assert bad.node_id not in nodes_of(search)


@pytest.mark.slow
def test_labels_and_resources_pin_a_search(
    words: list[str], expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    with local_nodes(2) as cluster:
        pinned = [
            cluster.add(2, labels={"zone": "x"}),
            cluster.add(2, labels={"zone": "x"}, resources={"licence": 1}),
        ]
        conditions = [
            ["--cluster.labels", "{zone: x}"],
            ["--cluster.labels", "{zone: x}", "--cluster.resources", "{licence: 0.2}"],
        ]
        for number, condition in enumerate(conditions):
            search = RunningSearch([*words, *condition], f"pinned-{number}", tmp_path, cluster.address)
            check(search, expected)
            assert nodes_of(search) <= {node.node_id for node in pinned[number:]}


@pytest.mark.slow
def test_gpus_that_torch_cannot_see_end_the_search_with_one_line(
    words: list[str], expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    with local_nodes() as cluster:
        cluster.add(4, num_gpus=2, env_vars={"CUDA_VISIBLE_DEVICES": "5,7"})
        search = RunningSearch([*words, "--engine.device", "cuda"], "gpus", tmp_path, cluster.address)
        assert search.end() == 2
    assert re.search(r"engine\.device.*cuda", search.output)
    assert "Traceback" not in search.output


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_faults_change_no_result(
    words: list[str], expected: list[dict[str, Any]], tmp_path: Path, seed: int
) -> None:
    found = disturbed(words, tmp_path, expected, seed)
    assert found.problems == [], found
    assert (found.lost, found.doubled) == (0, 0)
