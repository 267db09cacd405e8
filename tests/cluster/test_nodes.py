"""A search over several Ray nodes: machines are lost or join late, and none contributes a wrong number."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.support.commands import COMMAND, flags, trials_of

pytestmark = pytest.mark.ray
STEPS = 200


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster whose head has no CPU; each test adds its nodes."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield made
    ray.shutdown()
    made.shutdown()


class Running:
    """A search on a cluster, as a process of its own that is read while it runs."""

    def __init__(self, cluster: Cluster, words: list[str], folder: Path) -> None:
        self.output = folder / "output.txt"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [*COMMAND, *words, "--cluster.address", "auto", "--wandb.mode", "disabled"],
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"RAY_ADDRESS": cluster.address},
            )

    def wait_for(self, text: str, times: int = 1) -> None:
        deadline = time.monotonic() + 300
        while self.output.read_text().count(text) < times:
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.2)

    def finish(self) -> str:
        assert self.process.wait(timeout=500) == 0, self.output.read_text()
        return self.output.read_text()


def words(micro_base: Path, corpus: Path, folder: Path, name: str, trials: int) -> list[str]:
    return [
        *flags(micro_base, corpus, folder, name),
        *("--training.max_steps", str(STEPS), "--evaluation.eval_every_steps", "20"),
        *("--evaluation.text_metrics", "never", "--trials", str(trials), "--search.scheduler", "none"),
        *("--search.sampler", "random", "--search.space", "lora"),
    ]


def losses(folder: Path, name: str) -> dict[int, dict[int, float]]:
    """Return each trial's evaluation losses by step; no step was logged twice with two values."""
    found: dict[int, dict[int, float]] = {}
    for trial in trials_of(folder, name):
        log = (folder / name / trial["trial_id"] / "results.jsonl").read_text().splitlines()
        curve = found.setdefault(trial["number"], {})
        for record in map(json.loads, log):
            loss = curve.setdefault(record["step"], record["eval/loss"])
            assert record["eval/loss"] == pytest.approx(loss, rel=1e-4)
    return found


@pytest.mark.slow
def test_nodes_may_be_lost_and_may_join(
    cluster: Cluster, micro_base: Path, corpus: Path, tmp_path: Path
) -> None:
    first = cluster.add_node(num_cpus=2)
    cluster.add_node(num_cpus=1)
    running = Running(cluster, words(micro_base, corpus, tmp_path, "nodes", 5), tmp_path)
    running.wait_for("first score", times=2)
    cluster.remove_node(first, allow_graceful=False)
    running.wait_for("was lost")
    cluster.add_node(num_cpus=2)
    printed = running.finish()
    assert "joined" in printed
    assert "Traceback" not in printed
    assert "raylet" not in printed
    trials = trials_of(tmp_path, "nodes")
    assert {(trial["state"], trial["steps"]) for trial in trials} == {("completed", STEPS)}
    found = losses(tmp_path, "nodes")
    assert all(list(curve) == list(range(20, STEPS + 1, 20)) for curve in found.values())
    # The same search on one machine that nothing happens to.
    alone = subprocess.run(
        [*COMMAND, *words(micro_base, corpus, tmp_path, "alone", 5), "--wandb.mode", "disabled"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "was lost" not in alone.stdout
    for number, curve in losses(tmp_path, "alone").items():
        assert found[number] == pytest.approx(curve, rel=1e-4)


@pytest.mark.slow
def test_a_head_without_cpus_waits_for_its_first_node(
    cluster: Cluster, micro_base: Path, corpus: Path, tmp_path: Path
) -> None:
    more = ["--training.max_steps", "20"]
    running = Running(cluster, [*words(micro_base, corpus, tmp_path, "late", 2), *more], tmp_path)
    running.wait_for("waiting up to 600 s for a node")
    cluster.add_node(num_cpus=2)
    running.finish()
    assert {trial["state"] for trial in trials_of(tmp_path, "late")} == {"completed"}
