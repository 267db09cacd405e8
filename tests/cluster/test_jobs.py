"""A search that is sent to a cluster as a job runs on when whoever sent it is gone."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.jobs import Jobs, _folder, check_results_dir
from tests.support.commands import COMMAND, flags, loratune, trials_of
from trainable.errors import ClusterError, ConfigError

RAY = str(Path(sys.executable).parent / "ray")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("head:8265", "not a dashboard's address. Give http://HOST:8265"),
        ("http://127.0.0.1:{port}", r"nothing answers there.*port-forward"),
    ],
)
def test_a_wrong_address_is_one_line(address: str, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        Jobs(address.format(port=free_port()))


def test_a_job_takes_code_and_the_callers_modules_but_no_data(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "metric.py").write_text("def score(): ...")
    (mine / ".env").write_text("WANDB_API_KEY=secret")
    with _folder({"search.yaml": "a: 1"}, [mine]) as folder:
        assert (folder / "tune" / "cli" / "__init__.py").is_file()
        assert (folder / "tune" / "shipped" / "base_config.yaml").is_file()
        assert (folder / "mine" / "metric.py").is_file()
        assert (folder / "search.yaml").read_text() == "a: 1"
        everything = [path.name for path in folder.rglob("*")]
        assert not {".env", ".git", "__pycache__", ".venv", "tests"} & set(everything)
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 5_000_000
        done = subprocess.run(
            [sys.executable, "-c", "import tune; print(tune.__file__)"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": str(folder)},
        )
        assert done.stdout.startswith(str(folder.resolve()))
    assert not folder.exists()
    with pytest.raises(ConfigError, match="does not exist"), _folder({}, [tmp_path / "gone"]):
        pass
    with pytest.raises(ConfigError, match="another 'tune' already"), _folder({}, [tmp_path / "tune"]):
        pass


def test_results_that_would_be_lost_with_the_job_are_refused() -> None:
    check_results_dir("/shared/results")
    check_results_dir("s3://bucket/results")
    with pytest.raises(ConfigError, match="relative, and a Ray job's own folder goes away"):
        check_results_dir("results")


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[str]:
    """A cluster of one node, started as a user starts one; its dashboard's address."""
    pytest.importorskip("aiohttp", reason="needs loratune[cluster]")
    port, dashboard_port = free_port(), free_port()
    folder = Path("/tmp") / f"loratune-jobs-{os.getpid()}"
    head = [*("--head", "--port", str(port), "--dashboard-port", str(dashboard_port), "--num-cpus", "2")]
    head += ["--dashboard-agent-listen-port", str(free_port())]
    head += ["--temp-dir", str(folder), "--block", "--disable-usage-stats"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    process = subprocess.Popen(
        [RAY, "start", *head],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{dashboard_port}"
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                Jobs(address).listed()
                break
            except ClusterError:
                assert time.monotonic() < deadline
                time.sleep(1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def jobs_at(address: str) -> dict[str, str]:
    return {job.job_id: job.status for job in Jobs(address).listed()}


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_outlives_its_sender_is_stopped_and_is_resumed(
    dashboard: str, micro_base: Path, corpus: Path, tmp_path: Path
) -> None:
    words = ["submit", "--address", dashboard, "--follow", *flags(micro_base, corpus, tmp_path, "sent")[1:]]
    place = words.index("--seed")
    words[place : place + 2] = ["--search.seed", "3", "--wandb.mode", "disabled"]
    words += ["--training.max_steps", "100000", "--evaluation.eval_every_steps", "50"]
    sender = subprocess.Popen(
        [*COMMAND, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 240
    while not list((tmp_path / "sent").glob("*/checkpoint_*/manifest.json")):
        assert sender.poll() is None, sender.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.5)
    sender.send_signal(signal.SIGKILL)
    sender.wait()
    (job_id,) = jobs_at(dashboard)
    assert jobs_at(dashboard)[job_id] == "RUNNING"
    stopped = loratune("jobs", "stop", job_id, "--address", dashboard, folder=tmp_path)
    assert "saves its trials and ends" in stopped.stdout, stopped.stderr
    deadline = time.monotonic() + 90
    while jobs_at(dashboard)[job_id] == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    printed = loratune("jobs", "logs", job_id, "--address", dashboard, folder=tmp_path).stdout
    assert "loratune resume sent" in printed, printed
    saved = {trial["number"]: trial["steps"] for trial in trials_of(tmp_path, "sent") if trial["checkpoint"]}
    assert saved
    resumed = loratune(
        *("submit", "--address", dashboard, "--resume", "sent", "--results_dir", str(tmp_path), "--follow"),
        *("--search.timeout_s", "15"),
        folder=tmp_path,
    )
    assert "continue, from step" in resumed.stdout, resumed.stdout + resumed.stderr
    listed = loratune("jobs", "list", "--address", dashboard, folder=tmp_path).stdout
    assert listed.count("loratune resume sent") == listed.count("loratune search") == 1
    assert "INFO" not in resumed.stderr
    assert "RUNNING" not in listed
