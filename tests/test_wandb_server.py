"""The real client against the server that the other tests trust: what is given arrives, once, and is kept."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.sdk.wandb_run import Run

from tests.support.wandb_records import HISTORY
from tests.support.wandb_server import WandbServer

ROWS = [{"loss": 1.0 / (row + 1), "step": 10 * row} for row in range(20)]


def begin(finish_timeout: float = 0.0, **options: Any) -> Run:
    settings = wandb.Settings(
        silent=True, console="off", x_disable_stats=True, init_timeout=10, finish_timeout=finish_timeout
    )
    return wandb.init(project="project", reinit="create_new", settings=settings, **options)


def version(folder: Path, content: str, name: str = "model") -> wandb.Artifact:
    path = folder / "weights"
    path.write_text(content)
    artifact = wandb.Artifact(name, type="model", metadata={"content": content})
    artifact.add_file(str(path), name="adapter/weights")
    return artifact


def ending(run: Run, timeout_s: float = 20.0) -> threading.Thread:
    """End a run and give it so much time; the thread is alive if that was too little."""
    thread = threading.Thread(target=run.finish, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return thread


def test_a_run_arrives_whole(wandb_server: WandbServer) -> None:
    config = {"lr": 1e-3, "lora": {"r": 8, "modules": ["q", "v"]}}
    run = begin(id="a", name="n", group="g", tags=["s", "t"], notes="words", job_type="trial", config=config)
    for row in ROWS:
        run.log(row)
    run.summary["state"] = "diverged"
    run.finish(exit_code=3)
    assert list(wandb_server.runs) == ["a"]
    arrived = wandb_server.runs["a"]
    assert (arrived.entity, arrived.project, arrived.name, arrived.group) == ("tester", "project", "n", "g")
    assert (arrived.tags, arrived.notes, arrived.job_type) == (["s", "t"], "words", "trial")
    assert arrived.config == config
    assert arrived.history == ROWS
    assert {key: arrived.summary[key] for key in ("loss", "step", "state")} == ROWS[-1] | {
        "state": "diverged"
    }
    assert arrived.exit_code == 3
    assert wandb_server.unknown == []


def test_rows_arrive_while_the_run_goes_on(wandb_server: WandbServer) -> None:
    run = begin(id="a")
    for number, row in enumerate(ROWS[:2], start=1):
        run.log(row)
        wandb_server.wait_until(lambda number=number: wandb_server.runs["a"].history == ROWS[:number])
    assert wandb_server.runs["a"].exit_code is None
    run.finish()


def test_two_runs_side_by_side_stay_apart(wandb_server: WandbServer) -> None:
    first, second = begin(id="a", tags=["one"]), begin(id="b", tags=["two"])
    for row in ROWS:
        first.log(row)
        second.log(row | {"loss": -row["loss"]})
    first.finish()
    second.finish(exit_code=1)
    a, b = wandb_server.runs["a"], wandb_server.runs["b"]
    assert a.history == ROWS
    assert b.history == [row | {"loss": -row["loss"]} for row in ROWS]
    assert (a.tags, a.exit_code, b.tags, b.exit_code) == (["one"], 0, ["two"], 1)


def test_a_resumed_run_goes_on_where_it_ended(wandb_server: WandbServer) -> None:
    for part, config in ((ROWS[:7], {"lr": 1, "old": True}), (ROWS[7:12], {"lr": 2}), (ROWS[12:], {})):
        run = begin(id="a", resume="allow", config=config)
        for row in part:
            run.log(row)
        run.finish()
    arrived = wandb_server.runs["a"]
    assert arrived.history == ROWS
    assert arrived.summary["step"] == ROWS[-1]["step"]
    assert arrived.config == {"lr": 2, "old": True}
    assert wandb_server.unknown == []


def test_a_resumed_run_knows_its_summary(wandb_server: WandbServer) -> None:
    run = begin(id="a")
    run.log({"best": 0.5})
    run.finish()
    run = begin(id="a", resume="must")
    assert run.resumed
    assert run.summary["best"] == 0.5
    run.finish()


def test_aliases_move_to_the_next_version(wandb_server: WandbServer, tmp_path: Path) -> None:
    run = begin(id="a")
    run.log_artifact(version(tmp_path, "first"), aliases=["best"]).wait()
    run.log_artifact(version(tmp_path, "other", name="other"), aliases=["best"]).wait()
    (first, _) = wandb_server.artifacts
    assert (first.name, first.type, first.version) == ("model", "model", 0)
    assert first.aliases == ["best", "latest"]
    assert first.metadata == {"content": "first"}
    assert first.files == {"adapter/weights": b"first"}
    run.log_artifact(version(tmp_path, "second"), aliases=["best"]).wait()
    run.finish()
    first, other, second = wandb_server.artifacts
    assert (first.aliases, second.aliases) == ([], ["best", "latest"])
    assert other.aliases == ["best", "latest"]
    assert (second.version, second.files) == (1, {"adapter/weights": b"second"})
    assert [one.logged_by for one in wandb_server.artifacts] == ["a", "a", "a"]
    assert wandb_server.unknown == []


def test_the_same_content_makes_no_new_version_but_takes_the_alias(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    run = begin(id="a")
    for content, alias in (("first", "best"), ("second", "best"), ("first", "best")):
        run.log_artifact(version(tmp_path, content), aliases=[alias]).wait()
    run.finish()
    first, second = wandb_server.artifacts
    assert (first.aliases, second.aliases) == (["best", "latest"], [])


def test_what_a_run_used_is_known(wandb_server: WandbServer, tmp_path: Path) -> None:
    maker = begin(id="maker")
    maker.log_artifact(version(tmp_path, "first"), aliases=["best"]).wait()
    maker.finish()
    user = begin(id="user")
    assert user.use_artifact("model:best").version == "v0"
    dataset = wandb.Artifact("rows", type="dataset")
    dataset.add_file(str(tmp_path / "weights"), name="train.jsonl")
    user.use_artifact(dataset)
    user.finish()
    model, rows = wandb_server.artifacts
    assert (model.logged_by, model.used_by) == ("maker", ["user"])
    assert (rows.name, rows.type, rows.used_by) == ("rows", "dataset", ["user"])
    assert rows.files == {"train.jsonl": b"first"}
    assert wandb_server.unknown == []


def test_a_missing_artifact_is_missing(wandb_server: WandbServer) -> None:
    run = begin(id="a")
    with pytest.raises(wandb.errors.CommError, match="not found"):
        run.use_artifact("none:latest")
    run.finish()


def test_a_saved_file_arrives(wandb_server: WandbServer, tmp_path: Path) -> None:
    path = tmp_path / "out" / "the config.yaml"
    path.parent.mkdir()
    path.write_bytes(b"lora: {r: 8}\n\xff")
    run = begin(id="a")
    run.save(str(path), base_path=str(tmp_path), policy="now")
    run.finish()
    assert wandb_server.runs["a"].files["out/the config.yaml"] == b"lora: {r: 8}\n\xff"


@pytest.mark.parametrize("trouble", ["fail", "hang"])
def test_a_trouble_that_ends_costs_no_row(wandb_server: WandbServer, trouble: str) -> None:
    run = begin(id="a")
    for row in ROWS[:5]:
        run.log(row)
    wandb_server.wait_until(lambda: len(wandb_server.runs["a"].history) == 5)
    getattr(wandb_server, trouble)()
    for row in ROWS[5:15]:
        run.log(row)
    wandb_server.wait_until(lambda: wandb_server.refused > 0)
    assert len(wandb_server.runs["a"].history) == 5
    wandb_server.heal()
    for row in ROWS[15:]:
        run.log(row)
    assert not ending(run).is_alive()
    assert wandb_server.runs["a"].history == ROWS
    assert wandb_server.runs["a"].exit_code == 0


def test_a_refused_stream_is_given_up(wandb_server: WandbServer) -> None:
    run = begin(id="a")
    wandb_server.fail(404, where="file_stream")
    run.log(ROWS[0])
    wandb_server.wait_until(lambda: wandb_server.refused == 1)
    wandb_server.heal()
    run.log(ROWS[1])
    assert not ending(run).is_alive()
    assert wandb_server.runs["a"].history == []
    assert wandb_server.refused == 1


def test_a_refused_key_is_an_error_at_once(wandb_server: WandbServer) -> None:
    wandb_server.refuse_key()
    with pytest.raises(wandb.errors.CommError, match="not logged in"):
        begin(id="a")
    assert wandb_server.runs == {}


def test_a_wrong_key_is_refused(wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    with pytest.raises(wandb.errors.CommError, match="not logged in"):
        begin(id="a")


def test_what_a_server_that_is_gone_missed_can_be_sent_later(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    run = begin(id="a", finish_timeout=2)
    run.log(ROWS[0])
    wandb_server.wait_until(lambda: wandb_server.runs["a"].history == ROWS[:1])
    wandb_server.stop()
    for row in ROWS[1:]:
        run.log(row)
    assert not ending(run).is_alive()
    assert wandb_server.runs["a"].history == ROWS[:1]
    wandb_server.heal()
    (local,) = (tmp_path / "wandb").glob("run-*-a")
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", str(local)]
    subprocess.run(command, capture_output=True, check=True)
    arrived = wandb_server.runs["a"]
    # What had arrived comes again, under the step that it had: W&B keeps one row a step.
    assert arrived.history == [ROWS[0], *ROWS]
    assert [json.loads(line)["_step"] for line in arrived.lines(HISTORY)] == [0, *range(len(ROWS))]
    assert arrived.exit_code == 0


def test_an_unknown_question_gets_an_empty_answer(wandb_server: WandbServer) -> None:
    query = 'query New($a: String = "{") { first: project(name: $a) { id } second @include(if: $a) }'
    answer = wandb_server.store.graphql(query, {})
    assert wandb_server.unknown == [query]
    assert answer == {"first": None, "second": None}
