"""Whole searches that are killed and resumed: W&B has in the end what the trials' result logs have."""

from pathlib import Path

import pytest

from benchmarks.kills import disturbed, reference, workload
from tests.support.wandb_server import API_KEY, WandbServer
from tests.tune.callbacks.test_wandb_faults import plain_rows
from trainable.records import TrialState
from tune.store.experiment import ExperimentStore
from tune.store.reader import read

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SEEDS = (19, 7, 16)
"""Of kills of the engine, of the node manager, and of the driver and then of everything."""


def test_every_row_and_the_best_arrive(
    wandb_server: WandbServer,
    micro_base: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted0123456789")
    words = [*workload(micro_base, corpus), "--wandb.mode", "online", "--wandb.project", "killed"]
    expected, seconds = reference(words, tmp_path)
    kinds = set()
    for seed in SEEDS:
        found = disturbed(words, tmp_path, expected, seconds, seed)
        assert found.problems == [], found
        kinds |= {kind for kind, _ in found.kills}
        check(wandb_server, tmp_path / "results" / f"killed-{seed}")
    assert len(kinds) > 2
    for path in (tmp_path / "results").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert API_KEY.encode() not in content, path
            assert b"hf_planted0123456789" not in content, path


def check(server: WandbServer, folder: Path) -> None:
    data = read(ExperimentStore(folder))
    for trial in data.trials:
        run = server.runs[trial.trial_id]
        assert run.group == folder.name
        log = [(record.step, record["eval/loss"], record["train/loss"]) for record in trial.records]
        rows = [(row["step"], row["eval/loss"], row["train/loss"]) for row in plain_rows(run.history)]
        assert sorted(rows) == log, trial.number
        assert run.summary["trial_state"] == trial.state.value
        succeeded = trial.state in (TrialState.COMPLETED, TrialState.PRUNED)
        assert (run.exit_code == 0) == succeeded
    best = data.status().best
    assert best is not None
    (version,) = [
        one for one in server.artifacts if one.name == f"{folder.name}-adapter" and "best" in one.aliases
    ]
    assert version.committed
    assert version.metadata["metrics"]["eval/loss"] == best.best_metrics["eval/loss"]
    tagged = [run.run_id for run in server.runs.values() if run.group == folder.name and "best" in run.tags]
    assert tagged == [best.trial_id]
