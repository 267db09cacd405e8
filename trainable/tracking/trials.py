"""What the runs of a search share, and what each says of its trial: name, tags, configuration."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainable.config import DataConfig, TrialConfig, WandbConfig
from trainable.evaluation.catalogue import Catalogue
from trainable.lora.description import ModelDescription
from trainable.objective import Objective
from trainable.records import MetricsRecord, TrialState
from trainable.suggestion import Suggestion
from trainable.tracking.rows import without_excluded


def _no_log(trial_id: str) -> Sequence[MetricsRecord]:
    return ()


def collection_of(group: str) -> str:
    """Return the name of the artifact whose versions are a search's adapters."""
    return f"{group}-adapter"


@dataclass(frozen=True)
class PastTrial:
    """A trial of an earlier process of the search, as the summary run shows it.

    Attributes:
        trial_id, number, state, params: the trial's.
        value, best_step: its best objective, and the step of that.
        steps: optimizer steps taken.
        seconds: that it ran.
    """

    trial_id: str
    number: int
    state: TrialState
    params: Mapping[str, Any]
    value: float | None
    best_step: int | None
    steps: int
    seconds: float


@dataclass(frozen=True)
class RunGroup:
    """What the runs of one search share.

    Attributes:
        group: the experiment's name.
        objective: decides which run is the best.
        tags: of every run, besides the configured ones and those of its parameters.
        directory: the experiment's folder; W&B's files go under its `wandb`.
        settled_marker: gives, by trial id, the file that says that a run is complete.
        log_of: gives a trial's result log by its id: what a run is completed from.
        resume_command: the shell command that completes the runs, if there is one.
        data_hash: of the rows, if they are to be versioned.
        diverged: numbers of the trials that have diverged so far.
        summarize: whether the group has a run for the search itself.
        past: the trials of earlier processes, for that run.
        rungs: steps at which the scheduler compares trials, for that run.
        importance: returns each parameter's share of what separates good trials from bad ones, for that run.
        page: returns the report of the search as HTML, for that run's end.
        earlier: the logs of trials that an earlier process of the search has started, by their id.
    """

    group: str
    objective: Objective
    tags: Sequence[str]
    directory: Path
    settled_marker: Callable[[str], Path]
    log_of: Callable[[str], Sequence[MetricsRecord]] = _no_log
    resume_command: str | None = None
    data_hash: str | None = None
    diverged: Sequence[int] = ()
    summarize: bool = False
    past: Sequence[PastTrial] = ()
    rungs: Sequence[int] = ()
    importance: Callable[[], Mapping[str, float]] | None = None
    page: Callable[[], str] | None = None
    earlier: Mapping[str, Sequence[MetricsRecord]] = field(default_factory=dict)

    @property
    def collection(self) -> str:
        """The name of the artifact whose versions are the search's adapters."""
        return collection_of(self.group)

    @property
    def earlier_best(self) -> float | None:
        """The best objective that the search had before it was interrupted."""
        best = self.objective.best(record for log in self.earlier.values() for record in log)
        return self.objective.value(best) if best else None


@dataclass(frozen=True)
class TrackedTrial:
    """One trial as its run describes it.

    Attributes:
        trial_id: Ray's, and the run's id.
        name: the run's.
        config: the run's configuration.
        number: of the trial in its search, if it has one.
        params: the searched values by dotted key.
        tags: of the run, besides those that all runs of the group have.
        catalogue: of the trial's metrics.
        data: the files it trains on, if they are to be versioned.
    """

    trial_id: str
    name: str
    config: Mapping[str, Any]
    number: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    catalogue: Catalogue = field(default_factory=lambda: Catalogue.of([]))
    data: DataConfig | None = None


def lora_trial(
    trial_id: str,
    suggestion: Suggestion,
    *,
    wandb: WandbConfig,
    experiment: str,
    details: Mapping[str, Any],
    model: ModelDescription | None,
) -> TrackedTrial:
    """Describe a trial of a loratune search.

    Args:
        trial_id: Ray's.
        suggestion: what the searcher suggested.
        wandb: the configuration's section.
        experiment: the search's name.
        details: what the configuration says of the search, by section.
        model: the base model, if it is to be described.
    """
    trial = suggestion.config
    # The W&B section names another group, and says nothing about training.
    config = trial.model_dump(mode="json", exclude={"wandb"})
    # The searched values themselves stand in the sections, once.
    searched = {
        "experiment": experiment,
        "number": suggestion.number,
        "parameters": sorted(suggestion.params),
        "attempt": suggestion.attempt,
        "follows": suggestion.follows,
    }
    config |= {"searched": searched, **details}
    if model is not None:
        config["model_summary"] = model.with_adapter(trial.lora)
    return TrackedTrial(
        trial_id=trial_id,
        name=_name(wandb.name, suggestion.number, trial),
        config=without_excluded(config, wandb),
        number=suggestion.number,
        params=dict(suggestion.params),
        tags=(f"r={trial.lora.r}", f"alpha={trial.lora.alpha:g}"),
        catalogue=Catalogue.of(trial.evaluation.metrics),
        data=trial.data,
    )


def any_trial(
    trial_id: str, name: str, config: Mapping[str, Any], *, wandb: WandbConfig, details: Mapping[str, Any]
) -> TrackedTrial:
    """Describe a trial of anybody's own Ray Tune script; `config` is any dictionary."""
    plain = {str(key): _plain(value) for key, value in config.items()}
    return TrackedTrial(
        trial_id=trial_id,
        name=f"{wandb.name}-{name}" if wandb.name else name,
        config=without_excluded(plain | dict(details), wandb),
        params=plain,
    )


def _plain(value: Any) -> Any:
    """Return a value in types that JSON has; what it has no type for becomes text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return value.item()
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _name(prefix: str | None, number: int, trial: TrialConfig) -> str:
    mantissa, exponent = f"{trial.training.learning_rate:.1e}".split("e")
    made = f"trial-{number:04d}-r{trial.lora.r}-a{trial.lora.alpha:g}-lr{mantissa}e{int(exponent)}"
    return f"{prefix}-{made}" if prefix else made
