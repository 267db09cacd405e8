"""An experiment of the first format, from another machine, is read, verified and resumed.

`tests/golden/experiment_format_1.tar.gz` was written by version 0.1.0 and interrupted: two trials completed,
one was pruned, one has a checkpoint between two evaluations, one was never started, and one was not asked for
yet.
"""

import tarfile
from pathlib import Path

import pytest

from tests.support.commands import loratune, trials_of
from trainable.records import TrialState
from tune.read.verify import verify
from tune.store.experiment import ExperimentStore
from tune.store.reader import read

ARCHIVE = Path(__file__).parents[1] / "golden" / "experiment_format_1.tar.gz"
WRITTEN_AT = "/tmp/golden"


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """Unpack the experiment, its data and its base model, and point its configuration to them."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    config = tmp_path / "golden" / "config.yaml"
    text = config.read_text().replace(f"{WRITTEN_AT}/cache/models", str(tmp_path))
    config.write_text(text.replace(WRITTEN_AT, str(tmp_path)))
    return tmp_path / "golden"


def test_it_is_read_and_verified(golden: Path) -> None:
    store = ExperimentStore(golden)
    data = read(store)
    states = [trial.state for trial in data.trials]
    assert states == [
        TrialState.COMPLETED,
        TrialState.COMPLETED,
        TrialState.PRUNED,
        TrialState.PENDING,
        TrialState.PENDING,
    ]
    best = data.leaderboard()[0]
    assert (best.number, round(best.best_metrics["eval/loss"], 4)) == (0, 5.4759)
    checked = verify(store)
    assert checked.problems == []
    assert (checked.trials, checked.checkpoints) == (5, 8)


@pytest.mark.ray
def test_it_is_resumed_to_its_end(golden: Path, tmp_path: Path) -> None:
    where = ("--results_dir", str(tmp_path))
    planned = loratune("resume", "golden", "--dry-run", *where, folder=tmp_path)
    assert "trial 3: continue, from step 30" in planned.stdout, planned.stdout + planned.stderr
    resumed = loratune("resume", "golden", "--no_wandb", *where, folder=tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    trials = trials_of(tmp_path, "golden")
    assert len(trials) == 6
    assert {trial["state"] for trial in trials} == {"completed", "pruned"}
    assert verify(ExperimentStore(golden)).problems == []
