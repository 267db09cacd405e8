"""The callback in anybody's own Ray Tune script: any configuration, any metrics, W&B's Stop button."""

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray import tune as ray_tune
from wandb.sdk.lib import run_stopping

from tests.support.wandb_server import WandbServer
from tune.callbacks.wandb import WandbLoggerCallback

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("impatient")]
ITERATIONS, STOPPED_BEFORE = 12, 200


def train(config: dict[str, Any]) -> None:
    """Train nothing, as a trainable that knows nothing of loratune."""
    # The trial that is stopped has time enough for it, however slow the machine is.
    iterations = STOPPED_BEFORE if config["lr"] == 2 else ITERATIONS
    for iteration in range(iterations):
        time.sleep(config["pause_s"])
        loss = float(config["lr"]) / (iteration + 1)
        report = {"loss": loss, "nested": {"accuracy": np.float32(0.5)}, "note": "x", "secret/loss": 1.0}
        if iteration + 1 < iterations:
            ray_tune.report(report)
            continue
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "weights.json").write_text(json.dumps({"lr": float(config["lr"])}))
            ray_tune.report(report, checkpoint=ray_tune.Checkpoint.from_directory(folder))


@pytest.fixture
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_any_trials_arrive_as_they_reported_and_one_can_be_stopped(
    cluster: None,
    wandb_server: WandbServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(run_stopping.RunStopChecker.__init__.__kwdefaults__, "poll_interval", 0.2)
    hooked = tmp_path / "hooked.py"
    hooked.write_text("seen = []\ndef on_run(**run):\n    seen.append(run)\n")
    monkeypatch.syspath_prepend(tmp_path)
    said: list[str] = []
    callback = WandbLoggerCallback.for_any_search(
        "mine",
        metric="loss",
        mode="min",
        directory=tmp_path / "out",
        say=said.append,
        project="project",
        tags=["t"],
        exclude=["secret/*", "password"],
        log_system_metrics=False,
        on_run="hooked:on_run",
    )
    space = {
        "lr": ray_tune.grid_search([np.float64(1.0), np.float64(2.0), np.float64(3.0)]),
        "pause_s": 0.3,
        "password": "p",
        "nothing": None,
        "inner": {"layers": (1, 2), "activation": np.tanh, "nothing": None},
    }

    def stop_one() -> None:
        two = lambda: [run for run in wandb_server.runs.values() if run.config.get("lr") == 2.0]  # noqa: E731
        wandb_server.wait_until(lambda: bool(two()) and bool(two()[0].history), timeout_s=60)
        wandb_server.store.stopped.add(two()[0].run_id)

    stopping = threading.Thread(target=stop_one, daemon=True)
    stopping.start()
    tuner = ray_tune.Tuner(
        train,
        param_space=space,
        run_config=ray_tune.RunConfig(
            name="mine", storage_path=str(tmp_path / "ray"), callbacks=[callback], verbose=0
        ),
    )
    results = {result.config["lr"]: result for result in tuner.fit()}
    runs = {run.config["lr"]: run for run in wandb_server.runs.values()}
    assert {run.group for run in runs.values()} == {"mine"}
    assert runs[1.0].config == {
        "lr": 1.0,
        "pause_s": 0.3,
        "inner": {"layers": [1, 2], "activation": str(np.tanh)},
        "objective": {"metric": "loss", "mode": "min"},
    }
    expected = [
        {"step": step, "loss": lr / step, "nested/accuracy": 0.5, "note": "x"}
        for lr in (1.0,)
        for step in range(1, ITERATIONS + 1)
    ]
    assert runs[1.0].history == expected
    assert len(runs[3.0].history) == ITERATIONS
    stopped = runs[2.0]
    assert 0 < len(stopped.history) < STOPPED_BEFORE
    assert results[2.0].metrics["training_iteration"] == len(stopped.history)
    assert (stopped.summary["trial_state"], stopped.summary["reason"]) == (
        "pruned",
        "stopped by a person in W&B",
    )
    assert runs[1.0].summary["best/loss"] == 1.0 / ITERATIONS
    assert runs[1.0].summary["node"]
    (best,) = [one for one in wandb_server.artifacts if "best" in one.aliases]
    assert (best.name, best.files) == ("mine-adapter", {"weights.json": b'{"lr": 1.0}'})
    import hooked as user

    assert {seen["trial_id"] for seen in user.seen} == wandb_server.runs.keys()
    assert all(seen["url"].startswith(wandb_server.url) for seen in user.seen)
    assert said == []
