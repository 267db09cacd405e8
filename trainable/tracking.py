"""Weights & Biases, seen from one run: whether to track, how a run begins, how it ends.

Tracking must never stop or slow training. A server that cannot be reached or refuses the key becomes one
warning, and the run goes on offline; what goes wrong later becomes one warning; ending a run is bounded in
time. Rows carry their own `step` as an axis and are never dropped by W&B for being late.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import wandb
from wandb.sdk.wandb_run import Run

from trainable import records
from trainable.config import TrialConfig, WandbConfig, assemble, environment_layer, file_layers
from trainable.evaluation import Prediction

Mode = Literal["online", "offline", "disabled"]

INIT_TIMEOUT_S = 20
"""How long a server may take to answer before the run goes on offline."""
FINISH_TIMEOUT_S = 60
"""How long ending a run may take; what is left then can be synced later."""


def resolve_mode(config: WandbConfig) -> Mode:
    """Return the mode that runs are made in: as configured, else online if there is an API key."""
    if config.mode is not None:
        return config.mode
    return "online" if _has_key() else "offline"


def sync_command(directory: Path) -> str:
    """Return the command that sends the offline runs under `directory` to W&B."""
    return f"wandb sync {directory}/wandb/offline-run-*"


def start_run(
    config: WandbConfig, directory: Path, say: Callable[[str], None], /, **options: Any
) -> Run | None:
    """Begin a run beside any others of this process; `None` if tracking is off.

    Args:
        config: project, entity, notes and mode.
        directory: W&B's own files go under `directory/wandb`.
        say: is told if the server cannot be reached.
        **options: more of `wandb.init`: id, name, group, job_type, tags, config.
    """
    mode = resolve_mode(config)
    if mode == "disabled":
        return None
    directory.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        silent=True,
        console="off",
        init_timeout=INIT_TIMEOUT_S,
        x_disable_stats=not config.log_system_metrics,
        save_code=False,
    )
    options = {
        "project": config.project,
        "entity": config.entity,
        "notes": config.notes,
        "dir": str(directory),
        "reinit": "create_new",
        "resume": "allow",
        "settings": settings,
    } | options
    try:
        run = wandb.init(mode=mode, **options)
    except (wandb.Error, OSError) as error:
        if mode == "offline":
            raise
        say(
            f"W&B cannot be reached ({_first_line(error)}); the run goes on offline. "
            f"Send it later: {sync_command(directory)}"
        )
        run = wandb.init(mode="offline", **options)
    run.define_metric(records.STEP)
    run.define_metric("*", step_metric=records.STEP)
    return run


def finish_run(run: Run, exit_code: int = 0, timeout_s: float = FINISH_TIMEOUT_S) -> bool:
    """End a run; returns whether it was ended in time. What W&B has not sent by then it keeps on disk."""
    thread = threading.Thread(target=run.finish, kwargs={"exit_code": exit_code}, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return not thread.is_alive()


def log_directory_artifact(
    run: Run, directory: Path, name: str, aliases: Sequence[str], metadata: Mapping[str, Any]
) -> None:
    """Log a folder as a version of the model artifact `name`."""
    artifact = wandb.Artifact(name, type="model", metadata=dict(metadata))
    # File by file: `add_dir` writes to the terminal, whatever the settings say.
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        artifact.add_file(str(path), name=str(path.relative_to(directory)))
    run.log_artifact(artifact, aliases=list(aliases))


class WandBLogger:
    """One tracked run, for scripts and notebooks; no method of it ever raises because of W&B."""

    def __init__(
        self,
        config: WandbConfig | None = None,
        *,
        config_path: str | Path | None = None,
        directory: Path = Path("."),
        say: Callable[[str], None] = print,
    ) -> None:
        """Read the `wandb` section.

        Args:
            config: the section itself; or
            config_path: a YAML file that has it, under the environment's variables.
            directory: W&B's own files go under `directory/wandb`.
            say: takes lines for the terminal.

        Raises:
            ConfigError: the file is missing or its `wandb` section is wrong.
        """
        self._config = config or _read_section(Path(config_path or "config/base_config.yaml"))
        self._directory = directory
        self._say = say
        self._run: Run | None = None
        self._broken = False

    @property
    def run(self) -> Run | None:
        """W&B's own run, while there is one."""
        return self._run

    def init(self, run_name: str | None = None, config: Mapping[str, Any] | None = None) -> None:
        """Begin the run; `group`, `tags` and `notes` in `config` win over the file's."""
        told = dict(config or {})
        own = self._config
        options = {
            "name": run_name or own.name,
            "group": told.pop("group", own.group),
            "tags": [str(tag)[:64] for tag in told.pop("tags", own.tags)],
            "notes": told.pop("notes", own.notes),
            "job_type": "train",
            "config": told,
        }
        with self._guarded("begin the run"):
            self._run = start_run(own, self._directory, self._say, **options)
        if self._run is None:
            return
        self._say(f"✅ W&B initialized: {self._run.name} ({self._run.id})")
        later = f"offline; send it later: {sync_command(self._directory)}"
        where = later if self._run.offline else self._run.url
        self._say(f"📊 Dashboard: {where}")

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log a row; `step` is its place on the axis of all charts."""
        if self._run is not None:
            with self._guarded("log metrics"):
                self._run.log(dict(metrics) | ({} if step is None else {records.STEP: step}))

    def log_training_metrics(
        self, loss: float, learning_rate: float, epoch: float, step: int, grad_norm: float | None = None
    ) -> None:
        """Log a row of training metrics."""
        row = {
            records.TRAIN_LOSS: loss,
            records.TRAIN_LEARNING_RATE: learning_rate,
            records.TRAIN_EPOCH: epoch,
        }
        if grad_norm is not None:
            row[records.TRAIN_GRAD_NORM] = grad_norm
        self.log_metrics(row, step)

    def log_predictions(self, rows: Sequence[Prediction]) -> None:
        """Log the first rows as a table: prompt, prediction, reference and the row's scores."""
        if self._run is None or not self._config.log_predictions:
            return
        shown = rows[: self._config.num_predictions]
        keys = sorted({key for row in shown for key in row.scores})
        with self._guarded("log predictions"):
            table = wandb.Table(columns=["prompt", "prediction", "reference", *keys])
            for row in shown:
                table.add_data(row.prompt, row.prediction, row.reference, *map(row.scores.get, keys))
            self._run.log({"predictions": table})

    def log_model_artifact(
        self, model_path: str | Path, artifact_name: str, aliases: Sequence[str] = ("latest",)
    ) -> None:
        """Log a folder as a version of a model artifact."""
        if self._run is not None and self._config.log_artifacts and self._config.log_model:
            with self._guarded("log an artifact"):
                log_directory_artifact(self._run, Path(model_path), artifact_name, aliases, {})

    def finish(self, exit_code: int = 0) -> None:
        """End the run, within `FINISH_TIMEOUT_S`."""
        run, self._run = self._run, None
        if run is not None:
            with self._guarded("end the run"):
                if not finish_run(run, exit_code):
                    self._say(f"W&B is slow; send the rest later: {sync_command(self._directory)}")

    def __enter__(self) -> "WandBLogger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.finish(exit_code=0 if kind is None else 1)

    @contextlib.contextmanager
    def _guarded(self, what: str) -> Any:
        try:
            yield
        except Exception as error:
            # Tracking is a guest: whatever is wrong with it, training goes on.
            if not self._broken:
                self._say(f"W&B could not {what}: {_first_line(error)}. Training goes on.")
            self._broken = True


def _read_section(path: Path) -> WandbConfig:
    layers = [*file_layers(path, TrialConfig, only="wandb"), environment_layer()]
    return assemble(TrialConfig, layers)[0].wandb


def _has_key() -> bool:
    return bool(os.environ.get("WANDB_API_KEY")) or wandb.login(prompt=False)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
