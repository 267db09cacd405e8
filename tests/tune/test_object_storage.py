"""A search whose results lie in an object store, through the command line and a server of S3's protocol."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import loratune
from tests.support.s3_server import KEYS, S3Server

pytestmark = pytest.mark.ray


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with S3Server() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.address}")
        yield server


def words(micro_base: Path, corpus: Path, *, trials: int, steps: int) -> list[str]:
    return [
        *("search", "--name", "first", "--results_dir", "s3://bucket/results", "--seed", "3"),
        *("--trials", str(trials), "--search.max_concurrent", "2", "--search.scheduler", "none"),
        *("--model.name", str(micro_base), "--data.train", str(corpus / "train.json")),
        *("--data.val", str(corpus / "val.json"), "--data.test", "null"),
        *("--training.max_steps", str(steps), "--evaluation.eval_every_steps", "2"),
        *("--evaluation.text_rows", "2", "--evaluation.max_new_tokens", "8"),
        *("--search.space", "weather_quick", "--no_wandb", "--cluster.num_cpus", "2"),
    ]


def another_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have nothing of what the search left on this disk, and work in another folder."""
    monkeypatch.setenv("LORATUNE_CACHE", str(folder / "another-cache"))
    here = folder / "another"
    here.mkdir()
    return here


def test_a_search_in_a_store_is_read_and_loaded_from_another_machine(
    store: S3Server, micro_base: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    done = loratune(*words(micro_base, corpus, trials=2, steps=4), folder=here)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(here.iterdir()) == []
    there = another_machine(tmp_path, monkeypatch)
    uri = "s3://bucket/results/first"
    status = loratune("status", uri, folder=there)
    assert "finished" in status.stdout, status.stderr
    verified = loratune("verify", "first", "--results_dir", "s3://bucket/results", folder=there)
    assert (verified.returncode, verified.stdout.strip()[-10:]) == (0, " all sound"), verified.stdout
    print(done.stdout, status.stdout, verified.stdout, store.keys())
    print([r for r in store.requests if r[0] == "PUT"])
