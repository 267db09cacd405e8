"""One run of Weights & Biases: whether to track, how a run starts and how it ends.

Tracking must never stop or slow training. A server that cannot be reached or refuses the key becomes one
warning, and the run continues offline; ending a run is bounded in time, and so is leaving the process. Rows
carry their own `step` as an axis and are never dropped by W&B for being late. W&B finds the API key itself:
none passes through here.
"""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import wandb
from wandb.sdk import wandb_setup
from wandb.sdk.wandb_run import Run

from trainable import records
from trainable.config import WandbConfig
from trainable.tracking.local import OFFLINE_SUFFIX, offline_files, steps_in, sync_command
from trainable.tracking.server import Server, ServerUnavailableError, first_line, has_key

Mode = Literal["online", "offline", "disabled"]

INIT_TIMEOUT_S = 20
"""How long a server may take to answer before the run continues offline."""
FINISH_TIMEOUT_S = 30
"""How long ending a run may wait for uploads; what is left then can be synced later."""
MAX_TAG_LENGTH = 64
"""W&B refuses a run that has a longer tag, or an empty one."""


def resolve_mode(config: WandbConfig) -> Mode:
    """Return the mode that runs are made in: as configured, else online if there is an API key.

    Asks no server and no person.
    """
    if config.mode is not None:
        return config.mode
    return "online" if has_key() else "offline"


def clean_tags(tags: Sequence[Any]) -> list[str]:
    """Return the tags as W&B takes them: each once, none empty, none too long."""
    return list(dict.fromkeys(text[:MAX_TAG_LENGTH] for tag in tags if (text := str(tag).strip())))


def silence_wandb() -> None:
    """Keep W&B's own messages, such as those on retries, out of this process's terminal."""
    wandb.setup(wandb.Settings(silent=True))
    wandb.termsetup(wandb.Settings(silent=True), None)


def start_run(
    config: WandbConfig,
    directory: Path,
    say: Callable[[str], None],
    /,
    *,
    is_global: bool = False,
    watch_machine: bool = True,
    stop: Callable[[], None] | None = None,
    **options: Any,
) -> Run | None:
    """Start a run; `None` if tracking is off.

    Args:
        config: project, entity, notes and mode.
        directory: W&B's own files go under `directory/wandb`.
        say: is called if the server cannot be reached.
        is_global: make it the process's `wandb.run`, with the console's output, and end the one before it;
            otherwise it lives beside any others.
        watch_machine: let W&B measure this machine, if the configuration says so.
        stop: is called, from a thread of W&B's, if a person presses the run's Stop button. Without it W&B
            interrupts the process.
        **options: more of `wandb.init`: id, name, group, job_type, tags, config.

    Returns:
        The run. It is offline, whatever was configured, if the server could not be used.

    Raises:
        wandb.Error, OSError: not even an offline run can be started.
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
        x_disable_stats=not (watch_machine and config.log_system_metrics),
        save_code=False,
        stop_fn=stop,
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
        if mode == "online":
            # W&B's service would hold the id of a run whose start fails.
            Server().ping()
        run = wandb.init(mode=mode, **options)
    except (wandb.Error, OSError, ServerUnavailableError) as error:
        if mode == "offline":
            raise
        say(
            f"W&B cannot be reached ({first_line(error)}); tracking continues offline. "
            f"Send it later: {sync_command(directory)}"
        )
        taken = options.get("id") or os.environ.get("WANDB_RUN_ID")
        if taken and not isinstance(error, ServerUnavailableError):
            # W&B's service holds the id, and can hang at the end of the process if it is made to give it up.
            options["id"] = f"{taken.removesuffix(OFFLINE_SUFFIX)}{OFFLINE_SUFFIX}"
        run = wandb.init(mode="offline", **options)
    run.define_metric(records.STEP)
    run.define_metric("*", step_metric=records.STEP)
    return run


def steps_of(run: Run, directory: Path) -> set[int]:
    """Return the steps that W&B already has of a run that is continued.

    Args:
        run: just started again, with `resume`.
        directory: as given to `start_run`; holds what earlier processes wrote offline.

    Raises:
        ServerUnavailableError: the server does not say.
    """
    if not run.offline:
        return Server().logged_steps(run.entity, run.project, run.id) if run.resumed else set()
    own = Path(run.dir).parent
    earlier = [path for path in offline_files(directory, run.id) if path.parent != own]
    return {step for path in earlier for step in steps_in(path)}


class Finishing:
    """The end of a run, from its beginning in a thread of its own.

    W&B closes the run's local file when it has sent everything, or gives up after `FINISH_TIMEOUT_S`; until
    then the last rows are on neither side.
    """

    def __init__(self, run: Run, exit_code: int = 0) -> None:
        self._run = run
        self._exit_code = exit_code
        self._errors: list[Exception] = []
        self._thread = threading.Thread(target=self._finish, name="wandb-finish", daemon=True)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """Whether the run is closed, so that its id can be used again."""
        return not self._thread.is_alive()

    def wait(self) -> bool:
        """Return whether W&B took all of the run within `FINISH_TIMEOUT_S`; the rest stays on disk.

        Raises:
            wandb.Error, OSError: the run could not be ended.
        """
        # W&B's own bound begins only when its service is done with every artifact: minutes, in an outage.
        self._thread.join(FINISH_TIMEOUT_S + 1)
        if self._errors and not isinstance(self._errors[0], TimeoutError):
            raise self._errors[0]
        return self.took_all

    @property
    def took_all(self) -> bool:
        """Whether W&B's client reports that the server took everything; rows are best asked for there."""
        return not (self._errors or self._thread.is_alive() or gave_up(self._run))

    def _finish(self) -> None:
        try:
            self._run.finish(exit_code=self._exit_code)
        except Exception as error:
            self._errors.append(error)


def finish_run(run: Run, exit_code: int = 0) -> bool:
    """End a run; returns whether W&B took all of it within `FINISH_TIMEOUT_S`. The rest stays on disk."""
    return Finishing(run, exit_code).wait()


def gave_up(run: Run) -> bool:
    """Return whether W&B's service stopped sending a run's rows; it reports that in its log alone."""
    log = Path(run.settings.log_internal)
    return not run.offline and log.exists() and b'"filestream: fatal error' in log.read_bytes()


def leave_service() -> None:
    """Do not wait for W&B's service when this process exits.

    It would wait for a server that has not answered for the whole of the time that ending a run may take.
    """
    connection = wandb_setup.singleton()._connection
    if connection is not None and connection._cleanup is not None:
        connection._cleanup()
