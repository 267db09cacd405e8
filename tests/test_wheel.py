"""What is installed works without the repository."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from tune.cli import main; main()"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


def loratune(installed: Path, folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", START, str(installed), *words],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_shipped_configurations_and_init_work_anywhere(installed: Path, tmp_path: Path) -> None:
    assert loratune(installed, tmp_path, "--version").startswith("loratune ")
    shown = loratune(installed, tmp_path, "config", "show", "--config", "quickstart")
    assert "project: weather-forecasting-lora" in shown
    assert "train: corpus:weather@1500" in shown
    rows = '{"prompt": "a", "response": "b"}\n' * 3
    (tmp_path / "mine.jsonl").write_text(rows)
    loratune(installed, tmp_path, "init", "own.yaml", "--data", "mine.jsonl", "--val", "mine.jsonl")
    own = loratune(installed, tmp_path, "config", "show", "--config", "own.yaml")
    assert "train: mine.jsonl" in own
    assert (installed / "trainable" / "py.typed").is_file()
    assert list(installed.rglob("LICENSE"))
