"""Where figures are kept: one JSON file a benchmark, with the device, the versions and the commit."""

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent / "results"
_PACKAGES = ("torch", "transformers", "peft", "ray", "optuna", "wandb")


def write_result(name: str, found: dict[str, Any]) -> Path:
    """Write `benchmarks/results/<name>.json`."""
    FOLDER.mkdir(exist_ok=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    told = {
        "device": device,
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in _PACKAGES},
        "commit": commit.stdout.strip(),
        **found,
    }
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return path


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ImportError:
        return None
