"""The Optuna study of an experiment: how it is opened, and what each trial carries beside its values."""

import os
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

RAY_TRIAL_ID = "ray_trial_id"
WANDB_RUN_ID = "wandb_run_id"
PARAMS = "params"
STATE = "trial_state"
REASON = "reason"
ATTEMPTS = "attempts"
STARTED = "started"
ENDED = "ended"
STEPS = "steps"
BEGINS_FROM = "begins_from"
"""The checkpoint of another trial that this one goes on from."""
FOLLOWS = "follows"
"""The number of the trial that this one is another attempt at."""


def open_study(storage: Path | str, name: str, **options: Any) -> optuna.Study:
    """Open the study `name`, creating it if it is not there.

    Args:
        storage: a journal file's path, or the URL of a database, in which `$VARIABLE` stands for an
            environment variable.
        name: the experiment's.
        options: of `optuna.create_study`.
    """
    backend = (
        JournalStorage(JournalFileBackend(str(storage)))
        if isinstance(storage, Path)
        else os.path.expandvars(storage)
    )
    # Its warnings tell how a sampler goes about its work; they would tear the live table apart.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return optuna.load_study(storage=backend, study_name=name)
    except KeyError:
        return optuna.create_study(storage=backend, study_name=name, load_if_exists=True, **options)
