"""The logger for scripts with the real client online: what arrives, and what a bad server costs."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb

from tests.support.wandb_server import WandbServer
from trainable.config import WandbConfig
from trainable.evaluation import Prediction
from trainable.tracking import WandBLogger, server
from trainable.tracking import run as wandb_run
from trainable.tracking.local import offline_files, steps_in
from trainable.tracking.run import finish_run, start_run

CONFIG = WandbConfig(
    project="project",
    group="g",
    tags=["one", "x" * 100],
    notes="words",
    log_system_metrics=False,
    save_code=False,
)
ROWS = [{"train/loss": 2.0 / (step + 1), "step": 10 * step} for step in range(12)]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_run, "INIT_TIMEOUT_S", 2)
    monkeypatch.setattr(wandb_run, "FINISH_TIMEOUT_S", 2)
    monkeypatch.setattr(server, "ASK_TIMEOUT_S", 2)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def logger(wandb_server: WandbServer, tmp_path: Path, said: list[str]) -> WandBLogger:
    return WandBLogger(CONFIG, directory=tmp_path / "out", say=said.append)


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Hold that what is inside takes no longer: training waits for it."""
    begin = time.monotonic()
    yield
    took = time.monotonic() - begin
    assert took <= seconds, f"took {took:.1f} s, at most {seconds:g} s are allowed"


def log(logger: WandBLogger, rows: list[dict[str, float]]) -> None:
    for row in rows:
        logger.log_metrics({"train/loss": row["train/loss"]}, step=int(row["step"]))


def warnings_in(said: list[str]) -> list[str]:
    return [line for line in said if "✅" not in line and "📊" not in line]


def send_later(line: str) -> None:
    """Do what the line says: `... later: COMMAND`."""
    command = line.partition("later: ")[2]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def assert_all_arrived(server: WandbServer, name: str = "run") -> None:
    """Hold that every row arrived; rows sent again, by `wandb sync`, are the same rows."""
    history = server.run(name).history
    assert {row["step"]: row for row in history} == {row["step"]: row for row in ROWS}


def test_what_is_given_arrives(wandb_server: WandbServer, logger: WandBLogger, said: list[str]) -> None:
    with logger:
        logger.init("run", {"lr": 5e-5, "lora": {"r": 8}, "tags": ["a", "b"]})
        log(logger, ROWS)
        logger.log_training_metrics(loss=0.5, learning_rate=1e-4, epoch=1.5, step=200, grad_norm=0.8)
    run = wandb_server.run("run")
    last = {
        "train/loss": 0.5,
        "train/learning_rate": 1e-4,
        "train/epoch": 1.5,
        "train/grad_norm": 0.8,
        "step": 200,
    }
    assert run.history == [*ROWS, last]
    assert run.config == {"lr": 5e-5, "lora": {"r": 8}}
    assert (run.project, run.group, run.tags, run.notes) == ("project", "g", ["a", "b"], "words")
    assert run.job_type == "train"
    assert {key: run.summary[key] for key in last} == last
    assert run.exit_code == 0
    assert said[1] == f"📊 Dashboard: {wandb_server.url}/tester/project/runs/{run.run_id}"
    assert warnings_in(said) == []
    assert wandb_server.unknown == []


def test_the_sections_tags_and_notes_are_used_if_none_are_given(
    wandb_server: WandbServer, logger: WandBLogger
) -> None:
    with logger:
        logger.init("run")
    run = wandb_server.run("run")
    assert (run.tags, run.notes, run.group) == (["one", "x" * 64], "words", "g")


def test_a_run_that_broke_does_not_read_finished(wandb_server: WandbServer, logger: WandBLogger) -> None:
    def work() -> None:
        with logger:
            logger.init("run")
            log(logger, ROWS)
            raise ArithmeticError("training broke")

    with pytest.raises(ArithmeticError, match="training broke"):
        work()
    run = wandb_server.run("run")
    assert run.history == ROWS
    assert run.exit_code == 1


def test_predictions_arrive_as_a_table(wandb_server: WandbServer, logger: WandBLogger) -> None:
    with logger:
        logger.init("run")
        logger.log_predictions(
            [Prediction("p", "a", "b", {"nlg/bleu_score": 0.5}), Prediction("q", "c", "d", {})]
        )
    files = wandb_server.run("run").files
    (name,) = [name for name in files if name.endswith(".table.json")]
    table = json.loads(files[name])
    assert table["columns"] == ["prompt", "prediction", "reference", "nlg/bleu_score"]
    assert table["data"] == [["p", "a", "b", 0.5], ["q", "c", "d", None]]


def test_the_best_checkpoint_is_found_by_its_alias(
    wandb_server: WandbServer, logger: WandBLogger, tmp_path: Path
) -> None:
    with logger:
        logger.init("run")
        for content, aliases in (("first", ["latest", "best"]), ("second", ["latest"]), ("third", ["best"])):
            folder = tmp_path / content
            folder.mkdir()
            (folder / "weights").write_text(content)
            logger.log_model_artifact(folder, "model", aliases=aliases)
    versions = [one for one in wandb_server.artifacts if one.type == "model"]
    assert [one.files for one in versions] == [
        {"weights": content} for content in (b"first", b"second", b"third")
    ]
    assert [one.aliases for one in versions] == [[], [], ["best", "latest"]]
    assert {one.logged_by for one in versions} == {wandb_server.run("run").run_id}


def test_a_resumed_run_continues_its_history(
    wandb_server: WandbServer, tmp_path: Path, said: list[str]
) -> None:
    for part in (ROWS[:5], ROWS[5:]):
        run = start_run(CONFIG, tmp_path, said.append, id="same", name="run")
        for row in part:
            run.log(row)
        assert finish_run(run)
    assert wandb_server.runs["same"].history == ROWS
    assert said == []


def test_beginning_again_ends_the_run_before(
    wandb_server: WandbServer, tmp_path: Path, said: list[str]
) -> None:
    loggers = [WandBLogger(CONFIG, directory=tmp_path, say=said.append) for _ in range(2)]
    for number, logger in enumerate(loggers):
        logger.init(f"run-{number}")
        log(logger, ROWS[number:])
    for logger in loggers:
        logger.finish()
    for number in range(2):
        run = wandb_server.run(f"run-{number}")
        assert (run.history, run.exit_code) == (ROWS[number:], 0)


def test_code_arrives_as_what_the_run_was_made_with(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "train.py").write_text("print()")
    monkeypatch.chdir(tmp_path / "project")
    config = CONFIG.model_copy(update={"save_code": True})
    with WandBLogger(config, directory=tmp_path / "out", say=lambda _: None) as logger:
        logger.init("run")
    run, (version,) = wandb_server.run("run"), wandb_server.artifacts
    assert (version.type, version.logged_by, version.files) == ("code", run.run_id, {"train.py": b"print()"})
    assert run.stored_config["_wandb"]["value"]["code_path"] == "source-project"


@pytest.mark.parametrize("trouble", [pytest.param("hang", marks=pytest.mark.slow), "refuse_key"])
def test_a_server_that_does_not_let_the_run_begin_is_said_once_and_the_run_can_be_sent_later(
    wandb_server: WandbServer, logger: WandBLogger, said: list[str], trouble: str
) -> None:
    getattr(wandb_server, trouble)()
    with logger, at_most(20):
        logger.init("run")
        with at_most(1):
            log(logger, ROWS)
    assert wandb_server.runs == {}
    (warning,) = warnings_in(said)
    assert "continues offline" in warning
    wandb_server.heal()
    send_later(warning)
    assert_all_arrived(wandb_server)
    assert wandb_server.run("run").exit_code == 0


def test_a_run_whose_id_is_given_goes_on_offline_under_its_own(
    wandb_server: WandbServer, tmp_path: Path, said: list[str]
) -> None:
    wandb_server.stop()
    run = start_run(CONFIG, tmp_path, said.append, id="same", name="run")
    for row in ROWS:
        run.log(row)
    assert finish_run(run)
    (file,) = offline_files(tmp_path, "same")
    assert list(steps_in(file)) == [row["step"] for row in ROWS]
    (warning,) = said
    wandb_server.heal()
    send_later(warning)
    assert wandb_server.runs["same"].history == ROWS


@pytest.mark.parametrize("trouble", ["fail", "hang", "stop"])
def test_a_trouble_in_mid_run_that_ends_costs_nothing(
    wandb_server: WandbServer, logger: WandBLogger, said: list[str], trouble: str
) -> None:
    logger.init("run")
    log(logger, ROWS[:3])
    wandb_server.wait_until(lambda: wandb_server.run("run").history == ROWS[:3])
    getattr(wandb_server, trouble)()
    with at_most(1):
        log(logger, ROWS[3:])
    if trouble != "stop":
        wandb_server.wait_until(lambda: wandb_server.refused > 0)
    wandb_server.heal()
    logger.finish()
    assert wandb_server.run("run").history == ROWS
    assert wandb_server.run("run").exit_code == 0
    assert warnings_in(said) == []


def test_an_artifact_in_an_outage_holds_nothing_up_and_is_not_lost(
    wandb_server: WandbServer, logger: WandBLogger, said: list[str], tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    logger.init("run")
    wandb_server.fail()
    with at_most(1):
        logger.log_model_artifact(tmp_path / "model", "model", aliases=["best"])
        log(logger, ROWS)
    wandb_server.wait_until(lambda: wandb_server.refused > 0)
    wandb_server.heal()
    logger.finish()
    assert wandb_server.run("run").history == ROWS
    (version,) = wandb_server.artifacts
    assert (version.aliases, version.files) == (["best", "latest"], {"weights": b"w"})
    assert warnings_in(said) == []


def test_an_artifact_that_the_server_never_took_can_be_sent_later(
    wandb_server: WandbServer, logger: WandBLogger, said: list[str], tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    logger.init("run")
    log(logger, ROWS)
    wandb_server.fail()
    logger.log_model_artifact(tmp_path / "model", "model", aliases=["best"])
    with at_most(5):
        logger.finish()
    (warning,) = warnings_in(said)
    wandb_server.heal()
    wandb.teardown()
    send_later(warning)
    assert_all_arrived(wandb_server)
    (version,) = [one for one in wandb_server.artifacts if one.committed]
    assert (version.aliases, version.files) == (["best", "latest"], {"weights": b"w"})


@pytest.mark.parametrize("trouble", ["hang", pytest.param("stop", marks=pytest.mark.slow)])
def test_an_outage_that_outlasts_the_run_is_said_once_and_the_rest_can_be_sent_later(
    wandb_server: WandbServer, logger: WandBLogger, said: list[str], trouble: str
) -> None:
    logger.init("run")
    log(logger, ROWS[:3])
    wandb_server.wait_until(lambda: wandb_server.run("run").history == ROWS[:3])
    getattr(wandb_server, trouble)()
    log(logger, ROWS[3:])
    with at_most(10):
        logger.finish()
    (warning,) = warnings_in(said)
    assert wandb_server.run("run").history == ROWS[:3]
    wandb_server.heal()
    send_later(warning)
    assert_all_arrived(wandb_server)


def test_a_key_that_is_refused_in_mid_run_is_said_and_the_rest_can_be_sent_later(
    wandb_server: WandbServer, logger: WandBLogger, said: list[str]
) -> None:
    logger.init("run")
    log(logger, ROWS[:3])
    wandb_server.wait_until(lambda: wandb_server.run("run").history == ROWS[:3])
    wandb_server.refuse_key()
    with at_most(1):
        log(logger, ROWS[3:])
    wandb_server.wait_until(lambda: wandb_server.refused > 0)
    with at_most(5):
        logger.finish()
    (warning,) = warnings_in(said)
    wandb_server.heal()
    send_later(warning)
    assert_all_arrived(wandb_server)


SCRIPT = """
import sys
from pathlib import Path
from trainable import tracking
from trainable.tracking import run as wandb_run
from trainable.tracking import server
from trainable.config import WandbConfig

wandb_run.FINISH_TIMEOUT_S = 2
config = WandbConfig(project="project", log_system_metrics=False)
with tracking.WandBLogger(config, directory=Path(sys.argv[1])) as logger:
    logger.init("run")
    logger.log_metrics({"train/loss": 2.0}, step=0)
    sys.stdin.readline()
    logger.log_metrics({"train/loss": 1.0}, step=10)
"""


@pytest.mark.slow
def test_a_process_whose_server_is_gone_ends(wandb_server: WandbServer, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            wandb_server.wait_until(
                lambda: any(run.history for run in wandb_server.runs.values()), timeout_s=40
            )
            wandb_server.stop()
            out, _ = process.communicate("\n", timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    wandb_server.heal()
    send_later(out.splitlines()[-1])
    rows = {row["step"]: row["train/loss"] for row in wandb_server.run("run").history}
    assert rows == {0: 2.0, 10: 1.0}
