"""The manifests are what Ray, KubeRay and Slurm read, as far as that can be checked without a cloud."""

import json
import re
import shlex
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from trainable.config.layers import flag_layer
from tune.config import Config

MANIFESTS = Path(__file__).parents[2] / "cluster" / "manifests"
RAY_UP = ["aws", "gcp", "on_premises"]


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((MANIFESTS / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_takes_it(name: str) -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    manifest = load(name)
    jsonschema.validate(manifest, schema)
    types = manifest.get("available_node_types", {})
    assert manifest.get("head_node_type") in (types or {None: {}})
    for kind in types.values():
        assert kind.get("max_workers", 0) <= manifest["max_workers"]
    commands = manifest["head_start_ray_commands"] + manifest["worker_start_ray_commands"]
    for command in commands:
        assert shlex.split(command)[0] == "ray"
    assert "--dashboard-host=127.0.0.1" in manifest["head_start_ray_commands"][-1]


def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


@pytest.mark.parametrize("name", ["kuberay_cluster", "kuberay_job"])
def test_kuberay_takes_it(name: str) -> None:
    manifest = load(name)
    assert manifest["apiVersion"] == "ray.io/v1"
    assert manifest["kind"] == {"kuberay_cluster": "RayCluster", "kuberay_job": "RayJob"}[name]
    cluster = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    assert cluster["rayVersion"] == version("ray")
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for pod in pods(cluster):
        (container,) = pod["containers"]
        mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in pod.get("volumes", [])}
        limits, requests = container["resources"]["limits"], container["resources"]["requests"]
        assert limits.get("nvidia.com/gpu") == requests.get("nvidia.com/gpu")
        # Keys come from a secret, by its name.
        assert "env" not in container


def test_the_slurm_script_is_a_shell_script_that_resumes_what_it_finds() -> None:
    path = MANIFESTS / "slurm.sh"
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text()
    assert "#SBATCH --signal=B:TERM@120" in text
    assert text.index("loratune resume") < text.index("loratune search")


def test_the_image_has_the_ray_that_loratune_is_tested_with() -> None:
    text = (MANIFESTS / "Dockerfile").read_text()
    assert f"ARG RAY={version('ray')}-py311" in text


@pytest.mark.parametrize("path", sorted(MANIFESTS.iterdir()), ids=lambda path: path.name)
def test_every_flag_of_a_search_is_a_key(path: Path) -> None:
    text = path.read_text().replace("\\\n", " ").replace("#", " ")
    flags = re.findall(r"--((?:cluster|search|training|wandb)\.[\w.]+)[ =]('[^']*'|\S+)", text)
    for key, value in flags:
        flag_layer([f"--{key}", value.strip("'").replace("$head:$port", "head:6379")], Config)
