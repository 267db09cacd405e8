"""An experiment with one trial that was really trained, in this process and without Ray."""

import shutil
from pathlib import Path

from optuna.distributions import FloatDistribution
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from trainable.checkpoint.manifest import read_state
from trainable.records import MetricsRecord
from trainable.single import run_single
from trainable.tracking import WandBLogger
from tune.config import Config
from tune.store.experiment import ExperimentStore

TRIAL_ID = "0000abcd"


def trained_experiment(folder: Path, base: Path, corpus: Path) -> ExperimentStore:
    """Train one configuration for a few steps, and store it as the only trial of a search."""
    rate = 2e-2
    config = Config.model_validate(
        {
            "search": {
                "name": folder.name,
                "num_trials": 1,
                "results_dir": folder.parent,
                "space": {"training.learning_rate": {"type": "log_uniform", "low": 1e-3, "high": 1e-1}},
            },
            "model": {"name": str(base)},
            "data": {split: corpus / f"{split}.json" for split in ("train", "val", "test")},
            "lora": {"r": 4, "alpha": 8},
            "training": {"max_steps": 6, "batch_size": 4, "learning_rate": rate},
            "evaluation": {"eval_every_steps": 3, "text_metrics": "never"},
            "engine": {"device": "cpu"},
            "wandb": {"mode": "disabled"},
        }
    )
    run = folder.parent / "run"
    with WandBLogger(config.wandb, say=lambda line: None) as logger:
        run_single(config.trial(), run, logger, lambda line: None)
    store = ExperimentStore.create(config)
    record = MetricsRecord(read_state(run / "best")["record"])
    files = store.trial(TRIAL_ID)
    files.append(MetricsRecord({"time": 1_000_010.0, **record}).for_log())
    shutil.copytree(run / "best", store.folder / TRIAL_ID / "checkpoint_000000")
    study = store.create_study(config).study
    study.add_trial(
        create_trial(
            state=OptunaState.COMPLETE,
            value=record["eval/loss"],
            params={"training.learning_rate": rate},
            distributions={"training.learning_rate": FloatDistribution(1e-3, 1e-1, log=True)},
            user_attrs={
                "ray_trial_id": TRIAL_ID,
                "params": {"training.learning_rate": rate},
                "trial_state": "completed",
                "started": 1_000_000.0,
                "ended": 1_000_010.0,
            },
        )
    )
    return store
