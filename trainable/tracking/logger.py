"""One tracked run for scripts, notebooks and `loratune train`: the logger that the W&B guide describes.

None of its methods raises because of W&B: a failure becomes one warning of its kind, and training continues.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from wandb.sdk.wandb_run import Run

from trainable import records
from trainable.config import DataConfig, TrialConfig, WandbConfig, assemble, environment_layer, file_layers
from trainable.evaluation import Prediction
from trainable.evaluation.catalogue import FAMILIES, Catalogue
from trainable.tracking.artifacts import (
    checkpoint_aliases,
    checkpoint_metadata,
    data_manifest,
    log_code,
    log_model,
    use_data,
)
from trainable.tracking.local import sync_command, sync_command_for, waiting_artifacts
from trainable.tracking.rows import RunLog, predictions_table, unknown_metrics
from trainable.tracking.run import clean_tags, finish_run, start_run, steps_of
from trainable.tracking.server import Server, ServerUnavailableError, first_line
from trainable.tracking.uploads import remove_committed


class WandBLogger:
    """One tracked run.

    While it lasts it is the process's `wandb.run`, so plain `wandb.log(...)` logs to it. As a context manager
    it ends the run, with exit code 1 if an exception passes through.
    """

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
        self._log: RunLog | None = None
        self._catalogue = Catalogue.of(FAMILIES)
        self._warned: set[str] = set()
        self._logged: set[int] = set()

    @property
    def run(self) -> Run | None:
        """W&B's own run, while there is one."""
        return self._log.run if self._log else None

    def init(
        self,
        run_name: str | None = None,
        config: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
    ) -> None:
        """Start the run, and end the one before it if there is one; save the code if that is asked for.

        Under a W&B sweep's agent it is the run that the agent started.

        Args:
            run_name: `None`: as configured, else W&B makes one up.
            config: the run's configuration; its `group`, `tags` and `notes` win over the file's.
            run_id: of an earlier run to continue; records that W&B already has are not sent again.
        """
        self.finish()
        given = dict(config or {})
        own = self._config
        options = {
            "name": run_name or own.name,
            "group": given.pop("group", own.group),
            "tags": clean_tags(given.pop("tags", own.tags)),
            "notes": given.pop("notes", own.notes),
            "job_type": "train",
            "config": given,
        }
        if run_id is not None:
            options["id"] = run_id
        run = None
        with self._guarded("start the run"):
            run = start_run(own, self._directory, self._say, is_global=True, **options)
        if run is None:
            return
        self._log = RunLog(run, own, self._catalogue, self._warn)
        self._logged = set()
        if run_id is not None:
            with self._guarded("read the run's history"):
                self._logged = steps_of(run, self._directory)
        if warning := unknown_metrics(own, self._catalogue):
            self._say(warning)
        self._say(f"✅ W&B initialized: {run.name} ({run.id})")
        later = f"offline; send it later: {sync_command(self._directory)}"
        self._say(f"📊 Dashboard: {later if run.offline else run.url}")
        if own.save_code and own.log_artifacts:
            with self._guarded("save the code"):
                log_code(run, Path.cwd(), f"source-{own.project}")

    def describe_model(self, description: Mapping[str, Any]) -> None:
        """Add what the model is to the run's configuration, unless `watch_model` is false."""
        if self._log is not None and self._config.watch_model:
            with self._guarded("describe the model"):
                self._log.run.config.update({"model_summary": dict(description)})

    def use_data(self, data: DataConfig, data_hash: str) -> None:
        """Record which data the run uses, unless `log_artifacts` is false."""
        if self._log is not None and self._config.log_artifacts:
            with self._guarded("log the data's manifest"):
                use_data(self._log.run, data_manifest(data, data_hash), f"data-{self._config.project}")

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log a row; `step` is its place on the axis of all charts."""
        if self._log is not None:
            with self._guarded("log metrics"):
                self._log.log(dict(metrics) | ({} if step is None else {records.STEP: step}))

    def log_training_metrics(
        self, loss: float, learning_rate: float, epoch: float, step: int, grad_norm: float | None = None
    ) -> None:
        """Log a row of training metrics under the keys `train/...`."""
        row = {
            records.TRAIN_LOSS: loss,
            records.TRAIN_LEARNING_RATE: learning_rate,
            records.TRAIN_EPOCH: epoch,
        }
        if grad_norm is not None:
            row[records.TRAIN_GRAD_NORM] = grad_norm
        if step not in self._logged:
            self.log_metrics(row, step)

    def log_record(self, record: records.MetricsRecord) -> None:
        """Log a metrics record of the engine: metrics, histograms and predictions."""
        if self._log is not None and record.step not in self._logged:
            with self._guarded("log metrics"):
                self._log.log_record(record.for_tracking())

    def log_predictions(
        self, rows: Sequence[Prediction], step: int | None = None, key: str = "predictions"
    ) -> None:
        """Log the first `num_predictions` rows as a table: prompt, prediction, reference and scores."""
        shown = [asdict(row) for row in rows[: self._config.num_predictions]]
        if self._log is not None and self._config.log_predictions and shown:
            with self._guarded("log predictions"):
                self._log.log_table(predictions_table(shown), key, step)

    def log_model_artifact(
        self,
        model_path: str | Path,
        artifact_name: str,
        aliases: Sequence[str] = ("latest",),
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Log a folder as a version of a model artifact, unless `log_artifacts` or `log_model` is false."""
        if self._log is not None and self._config.log_artifacts and self._config.log_model:
            with self._guarded("log an artifact"):
                log_model(self._log.run, Path(model_path), artifact_name, aliases, metadata or {})

    def log_checkpoint(self, directory: Path, name: str, *, is_best: bool, is_last: bool) -> None:
        """Log a checkpoint's adapter as a version of the artifact `name`, if `log_model` asks for it."""
        aliases = checkpoint_aliases(self._config, is_best=is_best, is_last=is_last)
        if self._log is not None and aliases:
            with self._guarded("log a checkpoint"):
                metadata = checkpoint_metadata(directory)
                log_model(self._log.run, directory / "adapter", name, aliases, metadata)

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Set values of the run's summary."""
        if self._log is not None:
            with self._guarded("write the summary"):
                self._log.run.summary.update(dict(values))

    def finish(self, exit_code: int = 0) -> None:
        """End the run, within `run.FINISH_TIMEOUT_S`, and report what W&B does not have."""
        log, self._log = self._log, None
        if log is None:
            return
        with self._guarded("end the run"):
            run, folder, begin = log.run, Path(log.run.settings.sync_dir), time.monotonic()
            place = (run.entity or "", run.project)
            has_all = finish_run(run, exit_code)
            if has_all and not run.offline and waiting_artifacts(folder):
                try:
                    has_all = not remove_committed(Server(), *place, [folder])
                except ServerUnavailableError:
                    has_all = False
            if not has_all:
                took = time.monotonic() - begin
                later = sync_command_for([folder])
                self._say(f"W&B has not taken everything in {took:.1f} s. Send the rest later: {later}")

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
    def _guarded(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._warn(what, error)

    def _warn(self, what: str, error: Exception) -> None:
        """Report the first failure of each kind; tracking never stops training."""
        if what not in self._warned:
            self._warned.add(what)
            self._say(f"W&B could not {what}: {first_line(error)}. Training continues.")


def _read_section(path: Path) -> WandbConfig:
    layers = [*file_layers(path, TrialConfig, only="wandb"), environment_layer()]
    return assemble(TrialConfig, layers)[0].wandb
