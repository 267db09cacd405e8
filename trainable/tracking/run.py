"""One run of Weights & Biases: whether to track, how a run begins, what it is told, how it ends.

Tracking must never stop or slow training. A server that cannot be reached or refuses the key becomes one
warning, and the run goes on offline; ending a run is bounded in time, and so is leaving the process. Rows
carry their own `step` as an axis and are never dropped by W&B for being late. W&B finds the API key itself:
none passes through here.
"""

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import wandb
from wandb.sdk import wandb_setup
from wandb.sdk.lib import wbauth
from wandb.sdk.wandb_run import Run

from trainable import records
from trainable.config import WandbConfig
from trainable.errors import nearest
from trainable.evaluation.catalogue import Catalogue

Mode = Literal["online", "offline", "disabled"]

INIT_TIMEOUT_S = 20
"""How long a server may take to answer before the run goes on offline."""
FINISH_TIMEOUT_S = 60
"""How long ending a run, or the process, may wait for uploads; what is left then can be synced later."""
SEND_TIMEOUT_S = 120
"""How long sending what a run wrote offline may take before the run goes on offline again."""
OFFLINE_SUFFIX = "-offline"
"""What the id of a run ends in if it had to begin offline though it was to be online."""
MAX_TAG_LENGTH = 64
"""W&B refuses a run that has a longer tag, or an empty one."""


def resolve_mode(config: WandbConfig) -> Mode:
    """Return the mode that runs are made in: as configured, else online if there is an API key.

    Asks no server and no person.
    """
    if config.mode is not None:
        return config.mode
    return "online" if _has_key() else "offline"


def sync_command(directory: Path, *, begun_online: bool = False) -> str:
    """Return the shell command that sends the runs under `directory` to W&B.

    Args:
        directory: as given to `start_run`.
        begun_online: send also what is left of runs that began online; W&B skips these by default.
    """
    folder = shlex.quote(str(directory / "wandb"))
    if begun_online:
        return f"wandb sync --include-online {folder}/*run-*"
    return f"wandb sync {folder}/offline-run-*"


def clean_tags(tags: Sequence[Any]) -> list[str]:
    """Return the tags as W&B takes them: each once, none empty, none too long."""
    return list(dict.fromkeys(text[:MAX_TAG_LENGTH] for tag in tags if (text := str(tag).strip())))


def unknown_metrics(config: WandbConfig, catalogue: Catalogue) -> str | None:
    """Return a warning if `custom_metrics` has a name that no metric in the catalogue has; else `None`."""
    known = {key.rpartition("/")[2] for key in catalogue.metrics}
    strange = [name for name in config.custom_metrics if name.rpartition("/")[2] not in known]
    if not strange:
        return None
    return (
        f"wandb.custom_metrics: no configured metric is called '{strange[0]}'.{nearest(strange[0], known)} "
        "It becomes a column of the runs table if a metric family of your own returns it."
    )


def start_run(
    config: WandbConfig,
    directory: Path,
    say: Callable[[str], None],
    /,
    *,
    is_global: bool = False,
    **options: Any,
) -> Run | None:
    """Begin a run; `None` if tracking is off.

    Args:
        config: project, entity, notes and mode.
        directory: W&B's own files go under `directory/wandb`.
        say: is told if the server cannot be reached.
        is_global: make it the process's `wandb.run`, with the console's output, and end the one before it;
            otherwise it lives beside any others.
        **options: more of `wandb.init`: id, name, group, job_type, tags, config.

    Returns:
        The run. It is offline, whatever was configured, if the server could not be used; an id that was
        given then ends in `-offline`.

    Raises:
        wandb.Error, OSError: not even an offline run can be begun.
    """
    mode = resolve_mode(config)
    if mode == "disabled":
        return None
    # Absolute: W&B's service, which may be an older process's, has a working folder of its own.
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        silent=True,
        console="wrap" if is_global else "off",
        init_timeout=INIT_TIMEOUT_S,
        finish_timeout=FINISH_TIMEOUT_S,
        finish_timeout_raises=True,
        x_disable_stats=not config.log_system_metrics,
        save_code=False,
    )
    options = {
        "project": config.project,
        "entity": config.entity,
        "notes": config.notes,
        "dir": str(directory),
        "reinit": "finish_previous" if is_global else "create_new",
        "resume": "allow",
        "settings": settings,
    } | options
    try:
        run = wandb.init(mode=mode, **options)
    except (wandb.Error, OSError) as error:
        if mode == "offline":
            raise
        say(
            f"W&B cannot be reached ({first_line(error)}); tracking goes on offline. "
            f"Send it later: {sync_command(directory)}"
        )
        if taken := options.get("id") or os.environ.get("WANDB_RUN_ID"):
            # W&B's service goes on holding the id of the run that could not begin.
            options["id"] = f"{taken.removesuffix(OFFLINE_SUFFIX)}{OFFLINE_SUFFIX}"
        run = wandb.init(mode="offline", **options)
    run.define_metric(records.STEP)
    run.define_metric("*", step_metric=records.STEP)
    return run


def last_step_of(run: Run, directory: Path) -> int:
    """Return the last step that W&B has of a run that goes on; -1 if it has none.

    Args:
        run: just begun again, with `resume`.
        directory: as given to `start_run`; holds what earlier processes wrote offline.
    """
    if not run.offline:
        return int(run.summary.get(records.STEP, -1))
    own = Path(run.dir).parent
    earlier = [path for path in offline_files(directory, run.id) if path.parent != own]
    return max((step for path in earlier for step in steps_in(path)), default=-1)


def offline_files(directory: Path, run_id: str) -> list[Path]:
    """Return what processes have written offline of a run, under the `directory` given to `start_run`.

    Args:
        directory: as given to `start_run`.
        run_id: as given to `start_run`; the run that went on offline in its place is found as well.
    """
    ids = {run_id, f"{run_id.removesuffix(OFFLINE_SUFFIX)}{OFFLINE_SUFFIX}"}
    found = (directory / "wandb").glob("offline-run-*/run-*.wandb")
    return sorted(path for path in found if path.stem.removeprefix("run-") in ids)


def continued_id(directory: Path, run_id: str) -> str:
    """Return the id that a run goes on with: it may have gone on offline, under an id of its own."""
    begun = [path.stem.removeprefix("run-") for path in offline_files(directory, run_id)]
    return begun[0] if begun else run_id


def send_offline(directory: Path, run_id: str) -> None:
    """Send W&B what earlier processes wrote offline of a run, so that it can go on online in order."""
    unsent = [path for path in offline_files(directory, run_id) if not Path(f"{path}.synced").exists()]
    if unsent:
        command = [sys.executable, "-m", "wandb", "sync", *(str(path.parent) for path in unsent)]
        subprocess.run(command, capture_output=True, check=True, timeout=SEND_TIMEOUT_S)


def steps_in(path: Path) -> Iterator[int]:
    """Yield the steps of the rows in an offline run's file, up to where a crash tore it."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    for line in told.splitlines():
        record = json.loads(line)
        if record.get("type") == "history" and records.STEP in record["history"]["item"]:
            yield int(record["history"]["item"][records.STEP])


def finish_run(run: Run, exit_code: int = 0) -> bool:
    """End a run; returns whether W&B took all of it within `FINISH_TIMEOUT_S`. The rest stays on disk."""
    errors: list[Exception] = []

    def finish() -> None:
        try:
            run.finish(exit_code=exit_code)
        except Exception as error:
            errors.append(error)

    # W&B's own bound begins only when its service is done with every request before: minutes, in an outage.
    ending = threading.Thread(target=finish, name="wandb-finish", daemon=True)
    ending.start()
    ending.join(FINISH_TIMEOUT_S + 1)
    if errors and not isinstance(errors[0], TimeoutError):
        raise errors[0]
    return not (errors or ending.is_alive() or _gave_up(run))


def _gave_up(run: Run) -> bool:
    """Whether W&B's service gave up sending; it tells nobody but its log."""
    log = Path(run.settings.log_internal)
    return not run.offline and log.exists() and b'"filestream: fatal error' in log.read_bytes()


def first_line(error: Exception) -> str:
    """Return what an error says, on one line and without its full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


class RunLog:
    """Turns metrics records into a run's rows, histograms, tables and columns."""

    def __init__(self, run: Run, config: WandbConfig, catalogue: Catalogue) -> None:
        """Log to `run` what `config` asks for.

        Args:
            run: W&B's.
            config: which columns, histograms and predictions.
            catalogue: which way each metric points.
        """
        self.run = run
        self._config = config
        self._catalogue = catalogue
        self._wanted = {name.rpartition("/")[2] for name in config.custom_metrics}
        self._defined: set[str] = set()

    def log(self, row: Mapping[str, Any]) -> None:
        """Log a row; a custom metric's best value so far is its summary, and so its column.

        A metric without a known direction has its last value there."""
        for key in row.keys() - self._defined:
            if "/" in key and key.rpartition("/")[2] in self._wanted and not key.startswith("test/"):
                self.run.define_metric(
                    key, step_metric=records.STEP, summary=self._catalogue.direction(key) or "last"
                )
                self._defined.add(key)
        self.run.log(dict(row))

    def log_record(self, record: records.MetricsRecord) -> None:
        """Log a metrics record: what was watched since the last one, its metrics, its predictions."""
        for seen in record.get(records.HISTOGRAMS, ()):
            self.run.log(_histograms(seen))
        row = record.metrics
        row |= {key: record[key] for key in (records.STEP, records.FUSED_WIDTH) if key in record}
        if record.get(records.PREDICTIONS) and self._config.log_predictions:
            row["predictions"] = predictions_table(
                record[records.PREDICTIONS][: self._config.num_predictions]
            )
        self.log(row)


def predictions_table(rows: Sequence[Mapping[str, Any]]) -> wandb.Table:
    """Return predictions (as objects) as a table: prompt, prediction, reference and each score."""
    keys = sorted({key for row in rows for key in row["scores"]})
    table = wandb.Table(columns=["prompt", "prediction", "reference", *keys])
    for row in rows:
        table.add_data(row["prompt"], row["prediction"], row["reference"], *map(row["scores"].get, keys))
    return table


def _histograms(seen: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {records.STEP: seen[records.STEP]}
    for what in ("gradients", "parameters"):
        for kind, found in seen.get(what, {}).items():
            edges = np.linspace(found["low"], found["high"], len(found["counts"]) + 1)
            row[f"{what}/{kind}"] = wandb.Histogram(np_histogram=(found["counts"], edges))
    return row


def _has_key() -> bool:
    """Whether W&B has credentials: environment, netrc or its settings.

    `wandb.login(prompt=False)` would tell it too, but it asks the server and fails without one.
    """
    host = wandb_setup.singleton().settings.base_url
    try:
        found = wbauth.authenticate_session(host=host, source="loratune", prompt=False, update_session=False)
    except wandb.Error:
        # There is a key and W&B cannot use it: beginning the run will say what is wrong with it.
        return True
    return found is not None
