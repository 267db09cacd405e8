import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import session as session_module
from cluster.address import OWN, Target
from cluster.session import session
from trainable.errors import ClusterError

OWN_RAY, CLUSTER = Target(OWN), Target("10.0.0.1:6379", "RAY_ADDRESS")


class FakeRay:
    """Stands in for the module `ray`: one connection, and `init` as the test wants it."""

    def __init__(self, init: Callable[..., None] = lambda **_: None, *, connected: bool = False) -> None:
        self._init = init
        self.connected = connected
        self.calls: list[dict[str, Any]] = []

    def is_initialized(self) -> bool:
        return self.connected

    def init(self, **options: Any) -> None:
        assert not self.connected, "ray.init was called twice"
        self.calls.append(options)
        self._init(**options)
        self.connected = True

    def shutdown(self) -> None:
        assert self.connected, "ray.shutdown was called without a connection"
        self.connected = False


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeRay], FakeRay]:
    for name in session_module._SETTINGS:
        monkeypatch.setenv(name, "as the user set it")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def replace(fake: FakeRay) -> FakeRay:
        monkeypatch.setattr(session_module, "ray", fake)
        return fake

    return replace


def failing(error: Exception, says: bytes = b"") -> Callable[..., None]:
    def init(**_: Any) -> None:
        os.write(2, says)
        raise error

    return init


def test_local_starts_quietly_and_stops_also_after_an_error(
    use: Callable[[FakeRay], FakeRay], tmp_path: Path
) -> None:
    fake = use(FakeRay())
    with (
        pytest.raises(KeyError, match="the search"),
        session(OWN_RAY, num_cpus=2, num_gpus=0, log_dir=tmp_path),
    ):
        raise KeyError("the search")
    assert not fake.connected
    (options,) = fake.calls
    assert (options["address"], options["num_cpus"], options["num_gpus"]) == ("local", 2, 0)
    assert options["include_dashboard"] is False
    assert options["log_to_driver"] is False


def test_a_cluster_is_tried_and_joined_without_asking_for_resources(
    use: Callable[[FakeRay], FakeRay], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Target] = []
    monkeypatch.setattr(session_module, "try_out", tried.append)
    fake = use(FakeRay())
    with session(CLUSTER, num_cpus=2, num_gpus=0, log_dir=tmp_path / "made"):
        assert fake.calls[0]["address"] == "10.0.0.1:6379"
        assert not {"num_cpus", "num_gpus"} & set(fake.calls[0])
    assert tried == [CLUSTER]


def test_a_connection_that_was_there_is_used_and_kept(
    use: Callable[[FakeRay], FakeRay], tmp_path: Path
) -> None:
    fake = use(FakeRay(connected=True))
    with session(OWN_RAY, num_cpus=None, num_gpus=None, log_dir=tmp_path):
        pass
    assert fake.connected
    assert fake.calls == []


@pytest.mark.parametrize(
    ("error", "says", "message"),
    [
        (
            RuntimeError("no shared memory\nlong trace"),
            b"",
            r"could not be started.*no shared memory\.",
        ),
        (
            OSError("disk full"),
            b"E raylet died\n",
            r"cluster.num_cpus 2.*disk full.*\n  E raylet died",
        ),
        (Exception("The current node timed out during startup."), b"", "timed out during startup"),
    ],
)
def test_failures_are_told_with_what_to_do(
    use: Callable[[FakeRay], FakeRay],
    tmp_path: Path,
    error: Exception,
    says: bytes,
    message: str,
) -> None:
    use(FakeRay(failing(error, says)))
    with (
        pytest.raises(ClusterError, match=message),
        session(OWN_RAY, num_cpus=2, num_gpus=None, log_dir=tmp_path),
    ):
        pytest.fail("the block ran without a cluster")


def test_a_cluster_that_is_lost_while_it_is_joined_is_an_error(
    use: Callable[[FakeRay], FakeRay], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "try_out", lambda target: None)
    use(FakeRay(failing(ConnectionError("Failed to connect"))))
    with (
        pytest.raises(ClusterError, match=r"RAY_ADDRESS '10\.0\.0\.1:6379': the cluster was lost"),
        session(CLUSTER, num_cpus=None, num_gpus=None, log_dir=tmp_path),
    ):
        pytest.fail("the block ran without a cluster")


def test_a_home_that_cannot_be_written_gets_a_token_from_the_environment(
    use: Callable[[FakeRay], FakeRay], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    use(FakeRay())
    with session(OWN_RAY, num_cpus=None, num_gpus=None, log_dir=tmp_path):
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_chatter_goes_to_the_log_and_everything_is_put_back(
    use: Callable[[FakeRay], FakeRay], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    use(FakeRay())
    logger = logging.getLogger("ray")
    before = (logger.handlers, logger.propagate, logger.level, warnings.showwarning)
    with session(OWN_RAY, num_cpus=None, num_gpus=None, log_dir=tmp_path):
        logging.getLogger("ray.tune.anything").error("from a logger")
        warnings.warn("from a warning", RuntimeWarning, stacklevel=1)
        os.write(2, b"from native code\n")
        print("from the search", file=sys.stderr)
    os.write(2, b"afterwards\n")
    assert (logger.handlers, logger.propagate, logger.level, warnings.showwarning) == before
    log = (tmp_path / session_module.LOG_NAME).read_text()
    assert all(text in log for text in ("from a logger", "from a warning", "from native code"))
    terminal = capfd.readouterr().err
    assert "from the search" in terminal
    assert "afterwards" in terminal
    assert "native" not in terminal


def test_a_setting_of_the_users_is_left_alone(use: Callable[[FakeRay], FakeRay], tmp_path: Path) -> None:
    use(FakeRay())
    with session(OWN_RAY, num_cpus=None, num_gpus=None, log_dir=tmp_path):
        assert {os.environ[name] for name in session_module._SETTINGS} == {"as the user set it"}


@pytest.mark.ray
def test_a_real_search_leaves_the_terminal_empty(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
import ray
from ray import tune as ray_tune
from cluster.address import OWN, Target
from cluster.placement import Scope, devices
from cluster.session import session

def train(config):
    ray_tune.report({{"loss": 1.0}})

with session(Target(OWN), num_cpus=1, num_gpus=0, log_dir=Path({str(tmp_path / "logs")!r})):
    trial = ray_tune.with_resources(train, Scope().request(devices("auto", Scope()).resources_per_trial(2)))
    run = ray_tune.RunConfig(name="e", storage_path={str(tmp_path)!r}, verbose=0)
    ray_tune.Tuner(trial, tune_config=ray_tune.TuneConfig(num_samples=2), run_config=run).fit()
assert not ray.is_initialized()
"""
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=home, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "Started a local Ray instance" in (tmp_path / "logs" / session_module.LOG_NAME).read_text()


def test_a_temporary_folder_that_is_too_deep_for_sockets_is_replaced(
    use: Callable[[FakeRay], FakeRay], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    fake = use(FakeRay())
    with session(OWN_RAY, num_cpus=1, num_gpus=None, log_dir=tmp_path):
        pass
    (call,) = fake.calls
    assert len(call["_temp_dir"]) < 42


def test_the_environment_is_as_it_was_afterwards(
    use: Callable[[FakeRay], FakeRay], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.delenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", raising=False)
    before = dict(os.environ)
    use(FakeRay())
    with session(OWN_RAY, num_cpus=1, num_gpus=None, log_dir=tmp_path):
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
        assert os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] == "1"
    assert dict(os.environ) == before
