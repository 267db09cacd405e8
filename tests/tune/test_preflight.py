"""Every node is asked for what the search needs of it; a search does not start where one lacks something."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from safetensors.numpy import load_file

from tests.support.s3_server import S3Server
from tests.support.stores import s3
from trainable.errors import ClusterError
from trainable.node import Gpu, Node, describe
from trainable.places import inside, place_of
from trainable.software import software
from trainable.stores import delete_at, write_at
from tune import preflight
from tune.config import Config
from tune.preflight import Finding, require

__all__ = ["s3"]

PROBE = Path("/results/.loratune-1")
GOOD = Node("worker", software(), time.time(), "d" * 64, "", PROBE.name, 500_000_000_000, 1 << 33)
LISTED = {"NodeID": "n", "NodeManagerHostname": "worker", "Resources": {"CPU": 8.0}}


def judged(answer: Node, **resources: float) -> dict[str, Finding]:
    node = LISTED | {"Resources": {"CPU": 8.0} | resources}
    return {found.what: found for found in preflight._judge(answer, node, PROBE, data="d" * 64)}


def test_a_node_that_has_everything_lacks_nothing() -> None:
    found = judged(GOOD)
    assert set(found) == {"software", "results folder", "data"}
    assert not any(one.remedy or one.fatal for one in found.values())
    assert "torch" in found["software"].found
    assert found["results folder"].found == "/results is shared, 500 GB free"


@pytest.mark.parametrize(
    ("change", "what", "found", "remedy"),
    [
        ({"software": software() | {"peft": "0.1"}}, "software", r"peft 0\.1, not", "loratune submit"),
        ({"storage": ""}, "results folder", "is not shared", "every node mounts"),
        ({"storage": "!AWS Error ACCESS_DENIED."}, "results folder", "ACCESS_DENIED", "keys for the store"),
        ({"data": "e" * 64}, "data", "other rows than on this machine", "Copy"),
        ({"data": "!data.train 'a.json' does not exist."}, "data", "does not exist", "Copy the data"),
        ({"model": "there is no /m/config.json"}, "base model", "there is no", "Copy the model"),
    ],
)
def test_what_a_node_lacks_keeps_a_search_from_starting(
    change: dict[str, Any], what: str, found: str, remedy: str
) -> None:
    finding = judged(replace(GOOD, **change))[what]
    assert finding.fatal
    with pytest.raises(ClusterError, match=rf"worker: {what}: .*{found}.*{remedy}"):
        require([finding])


def test_results_in_a_store_are_read_there_and_not_in_a_folder_of_its_name(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = place_of(s3.uri("results"))
    write_at(inside(results, "probe"), "written")
    data, model = Config().data, Config().model
    node = describe(data, model, results, inside(results, "probe"), ask_torch=False)
    assert (node.storage, node.disk_free) == ("written", None)
    assert describe(data, model, results, inside(results, "no"), ask_torch=False).storage == ""
    with s3.outage(403):
        refused = describe(data, model, results, inside(results, "probe"), ask_torch=False).storage
    assert refused.startswith("!'s3://bucket' cannot be used: AWS Error ACCESS_DENIED")
    delete_at(inside(results, "probe"))
    assert s3.keys() == []
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_torch_does_not_see_is_not_trained_around_in_silence() -> None:
    assert judged(GOOD, GPU=2.0)["GPUs"].fatal
    seen = judged(replace(GOOD, gpus=(Gpu("H100", 70 << 30, 80 << 30),)), GPU=1.0)["GPUs"]
    assert (seen.fatal, seen.found) == (False, "H100, 75 of 86 GB free")


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, False),
        ({"load_in_4bit": True}, True),
        ({"dtype": "float32", "load_in_4bit": False}, False),
    ],
)
def test_a_model_that_is_larger_than_the_largest_gpu_is_an_error_before_it_is_loaded(
    change: dict[str, Any], fits: bool
) -> None:
    gpus = (Gpu("A10", 20 << 30, 24 << 30), Gpu("H100", 70 << 30, 80 << 30))
    model = Config().model.model_copy(update=change)
    answer = replace(GOOD, gpus=gpus, parameters=70_000_000_000)
    findings = list(preflight._fit(answer, model))
    assert [one.fatal for one in findings] == ([] if fits else [True])
    for finding in findings:
        with pytest.raises(ClusterError, match=r"(140|280)\.0 GB of weights.*85\.9 GB.*load_in_4bit"):
            require([finding])
    assert list(preflight._fit(replace(answer, parameters=7_000_000_000), model)) == []
    assert list(preflight._fit(replace(answer, parameters=None), model)) == []


@pytest.mark.parametrize(
    ("change", "what"), [({"disk_free": 5}, "disk"), ({"memory_free": 5}, "shared memory")]
)
def test_little_room_is_a_warning(change: dict[str, Any], what: str) -> None:
    finding = judged(replace(GOOD, **change))[what]
    assert finding.remedy
    require([finding])


def test_a_clock_that_is_off_is_a_warning() -> None:
    now = time.time()
    assert list(preflight._clock(replace(GOOD, clock=now), now - 5)) == []
    (finding,) = preflight._clock(replace(GOOD, clock=now - 3600), now - 5)
    assert finding.found == "3595 s off"


def test_this_machine_describes_itself(micro_base: Path, corpus: Path, tmp_path: Path) -> None:
    config = config_of(micro_base, corpus, tmp_path)
    (tmp_path / "probe").write_text("here")
    found = describe(config.data, config.model, str(tmp_path), str(tmp_path / "probe"), ask_torch=False)
    assert (found.storage, found.model, len(found.data)) == ("here", "", 64)
    assert found.disk_free is not None
    weights = load_file(next(micro_base.glob("*.safetensors")))
    assert found.parameters == sum(tensor.size for tensor in weights.values())
    gone = config.data.model_copy(update={"train": tmp_path / "gone.json"})
    elsewhere = describe(gone, config.model, "/nowhere", "/nowhere/p", ask_torch=False)
    assert elsewhere.data.startswith("!")
    assert "does not exist" in elsewhere.data
    assert (elsewhere.storage, elsewhere.disk_free) == ("", None)


def config_of(micro_base: Path, corpus: Path, results: Path) -> Config:
    return Config.model_validate(
        {
            "model": {"name": str(micro_base)},
            "data": {name: corpus / f"{name}.json" for name in ("train", "val")},
            "search": {"results_dir": results},
        }
    )


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace of its own needs root")
def test_a_node_without_the_shared_folder_and_with_other_rows_is_found(
    cluster: Cluster, micro_base: Path, corpus: Path, tmp_path: Path
) -> None:
    config = config_of(micro_base, corpus, tmp_path / "results")
    (tmp_path / "results").mkdir()
    (tmp_path / "other").mkdir()
    for path in corpus.iterdir():
        (tmp_path / "other" / path.name).write_bytes(path.read_bytes().replace(b"rain", b"snow"))
    start = f"{Path(sys.executable).parent / 'ray'} start --address {cluster.address} --num-cpus 1 --block"
    mounts = f"mount -t tmpfs tmpfs {tmp_path / 'results'} && mount --bind {tmp_path / 'other'} {corpus}"
    other = subprocess.Popen(
        ["unshare", "-m", "bash", "-c", f"{mounts} && {start}"],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while len(ray.nodes()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        findings = preflight.examine(config, ray.nodes())
        fatal = [finding.what for finding in findings if finding.fatal]
        assert fatal == ["results folder", "data"]
        with pytest.raises(ClusterError, match="not every node can run this search"):
            require(findings)
        assert not list((tmp_path / "results").iterdir())
    finally:
        os.killpg(other.pid, signal.SIGTERM)
        other.wait()
