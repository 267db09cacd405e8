"""The examples run as they stand."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(name: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.ray
def test_search_from_python(tmp_path: Path) -> None:
    printed = run("search_from_python.py", tmp_path)
    assert "4/4 trials" in printed
    assert "step 20: eval/loss" in printed or "step 5: eval/loss" in printed
    assert "Oslo Mar 24" in printed


@pytest.mark.slow
def test_a_metric_of_ones_own(tmp_path: Path) -> None:
    printed = run("metric_of_your_own.py", tmp_path / "run")
    assert "test loss" in printed
    assert 0 <= float(printed.rpartition("brevity ")[2]) <= 1


@pytest.mark.slow
@pytest.mark.ray
def test_wandb_in_a_search_of_ones_own(tmp_path: Path) -> None:
    printed = run("wandb_in_your_own_search.py", tmp_path)
    assert "best rate 0.2" in printed
    assert "W&B runs 2" in printed
