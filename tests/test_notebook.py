"""The notebook runs from its first cell to its last, and leaves what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "read_a_search.ipynb"


def cells() -> list[str]:
    read = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in read["cells"] if cell["cell_type"] == "code"]


def test_every_cell_compiles_and_none_holds_output() -> None:
    for cell in cells():
        compile(cell, NOTEBOOK.name, "exec")
    read = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") for cell in read["cells"])


@pytest.mark.slow
@pytest.mark.ray
def test_the_notebook_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(cells())],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "notebook.html").stat().st_size > 10_000
    assert (tmp_path / "notebook-adapter" / "adapter_model.safetensors").exists()
