"""An experiment's folder as a killed search leaves it, made through the searcher and the store themselves."""

from pathlib import Path
from typing import Any

from search_spaces import Space
from tests.support.engines import trial_config
from trainable.checkpoint.tensors import Checkpoint, save_checkpoint
from trainable.places import Place, inside, name_of, parent_of
from trainable.records import MetricsRecord
from tune.config import Config, StoredConfig
from tune.search.resume import Resumption, plan
from tune.search.searcher import OptunaSearcher
from tune.store.experiment import ExperimentStore

STEPS = 20


class ExperimentBuilder:
    """Begins trials, has them report, and leaves the rest to the test."""

    def __init__(self, place: Place, **search: Any) -> None:
        settings = {"name": name_of(place), "num_trials": 3, "startup_trials": 2, **search}
        settings |= {"results_dir": parent_of(place), "mode": settings.get("mode", "min")}
        self.config = Config.model_validate(
            {"search": settings, "training": {"max_steps": STEPS}, "evaluation": {"eval_every_steps": 5}}
        )
        self.store = ExperimentStore.create(self.config)
        self.folder = self.store.folder
        self.searcher = self.open(3)

    def open(self, new_trials: int) -> OptunaSearcher:
        search = self.config.search
        return OptunaSearcher(
            Space.load(search.space, self.config.trial()),
            self.config.trial(),
            self.store.create_study(self.config),
            search,
            new_trials=new_trials,
        )

    def begin(self, trial_id: str, *steps: int, state: str = "running") -> None:
        """Begin a trial that reports at some steps and saves each time; the last record has `state`."""
        self.searcher.suggest(trial_id)
        for index, step in enumerate(steps):
            record = MetricsRecord(
                {
                    "time": 100.0 + step,
                    "step": step,
                    "max_steps": STEPS,
                    "trial_state": state if step == steps[-1] else "running",
                    "eval/loss": 1 / step,
                }
            )
            files = self.store.trial(trial_id)
            files.append(record)
            self.searcher.on_trial_result(trial_id, record)
            save(inside(self.store.place, f"{trial_id}/checkpoint_{index:06d}"), step, record)

    def log(self, trial_id: str) -> Path:
        return self.folder / trial_id / "results.jsonl"

    def plan(self, changes: dict[str, Any] | None = None, **options: Any) -> Resumption:
        changed = self.config.model_dump(mode="json")
        for key, value in (changes or {}).items():
            section, name = key.split(".")
            changed[section][name] = value
        new = StoredConfig(Config.model_validate(changed), {}, ())
        return plan(self.store, self.config, new, **options)


def save(place: Place, step: int, record: dict[str, Any]) -> None:
    window = {"losses": [], "widths": [], "tokens": 0, "seconds": 0.0}
    checkpoint = Checkpoint(
        config=trial_config(),
        step=step,
        record=record,
        base_name="base",
        base_id=None,
        data_hash="0" * 64,
        targets=("q_proj",),
        window=window,
        adapter={},
        exp_avg={},
        exp_avg_sq={},
    )
    save_checkpoint(place, checkpoint)
