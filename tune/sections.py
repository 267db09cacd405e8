"""The two sections that a search adds to a trial's configuration: how it searches, and where it runs."""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from trainable.config import Section
from trainable.config.sections import MAY_CHANGE, Names, Positive, fixed
from trainable.errors import ConfigError, nearest
from trainable.objective import Constraint, Direction, Objective
from trainable.places import Place, place_of


def _results_dir(value: Any) -> Any:
    try:
        return place_of(value) if isinstance(value, str | Path) else value
    except ConfigError as error:
        # More text follows this message.
        raise ValueError(str(error).removesuffix(".")) from None


def _directions(value: Any) -> Any:
    """Read names alone, whose directions are filled in later, as a mapping."""
    names = [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return value
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{doubled[0]!r} is named twice")
    return dict.fromkeys(names)


Directions = Annotated[dict[str, Direction | None], BeforeValidator(_directions)]
ResultsDir = Annotated[Place, BeforeValidator(_results_dir)]

_OTHER_OBJECTIVE = fixed("the study was given another objective")

SAMPLERS = ("tpe", "random", "grid", "gp", "cmaes", "qmc", "nsga2", "nsga3")
"""The samplers that come with loratune; each is made in `tune.search.samplers`."""
SCHEDULERS = ("asha", "hyperband", "median", "none")
"""The schedulers that come with loratune; each is made in `tune.search.schedulers`."""


class SearchConfig(Section):
    """Which trials are tried, and when a weak one is stopped."""

    shared_because: ClassVar[str | None] = "it configures the search, not a trial"

    name: str | None = Field(None, description="the experiment's name; null: made from the time")
    space: str | dict[str, Any] = Field(
        "lora",
        description="a preset (see `loratune space show`), a YAML file, or the axes themselves",
        json_schema_extra=MAY_CHANGE,
    )
    num_trials: Positive = Field(16, description="trials to try", json_schema_extra=MAY_CHANGE)
    metric: str = Field(
        "eval/loss",
        description="the objective: any key of a metrics record",
        json_schema_extra=_OTHER_OBJECTIVE,
    )
    mode: Direction | None = Field(
        None, description="min or max; null: the metric's own direction", json_schema_extra=_OTHER_OBJECTIVE
    )
    other_objectives: Directions = Field(
        {},
        description="metrics to optimize beside search.metric: names, or {metric: min | max}",
        json_schema_extra=MAY_CHANGE,
    )
    constraints: Names = Field(
        [],
        description="bounds that the best trial has to keep: ['nlg/rouge_l_f >= 0.3']",
        json_schema_extra=MAY_CHANGE,
    )
    enqueue: list[dict[str, Any]] = Field(
        [],
        description="known points that are tried first: [{lora.r: 16, training.learning_rate: 2e-4}]",
        json_schema_extra=MAY_CHANGE,
    )
    warm_start: Names = Field(
        [],
        description="earlier experiments that the sampler learns from, by name or folder",
        json_schema_extra=fixed("what they found is in the study"),
    )
    sampler: str = Field(
        "tpe",
        description="tpe, random, grid, gp, cmaes, qmc, nsga2, nsga3, or `package.module:name` of your own",
        json_schema_extra=MAY_CHANGE,
    )
    startup_trials: Positive = Field(
        8, description="random trials before the sampler models anything", json_schema_extra=MAY_CHANGE
    )
    scheduler: str = Field(
        "asha",
        description="asha, hyperband, median, none, or `package.module:name` of your own",
        json_schema_extra=MAY_CHANGE,
    )
    grace_ratio: float = Field(
        0.08,
        gt=0,
        le=1,
        description="share of its steps that every trial gets before it can be stopped",
        json_schema_extra=MAY_CHANGE,
    )
    reduction_factor: float = Field(
        4,
        gt=1,
        description="at a rung, asha stops a trial outside the best 1/n of those that reached it before",
        json_schema_extra=MAY_CHANGE,
    )
    max_concurrent: Positive | None = Field(
        None, description="trials at once; null: as many as fit", json_schema_extra=MAY_CHANGE
    )
    timeout_s: float | None = Field(
        None, gt=0, description="the search ends after this; null: no limit", json_schema_extra=MAY_CHANGE
    )
    max_device_hours: float | None = Field(
        None,
        gt=0,
        description="nothing new is tried once the trials have used as much; null: no limit",
        json_schema_extra=MAY_CHANGE,
    )
    max_tokens: Positive | None = Field(
        None,
        description="nothing new is tried once the trials were trained on as many; null: no limit",
        json_schema_extra=MAY_CHANGE,
    )
    target: float | None = Field(
        None,
        description="the search ends when a completed trial reaches this value; null: no target",
        json_schema_extra=MAY_CHANGE,
    )
    patience: Positive | None = Field(
        None,
        description="the search ends when this many trials in a row did not improve on the best; null: never",
        json_schema_extra=MAY_CHANGE,
    )
    min_improvement: float | None = Field(
        None,
        gt=0,
        description="the search ends when no further trial is expected to improve by as much; null: never",
        json_schema_extra=MAY_CHANGE,
    )
    seed: int = Field(0, ge=0, lt=2**31, description="the sampler's seed")
    storage: str | None = Field(
        None,
        description="a database's URL for the study, with ${VARIABLE} for its password; null: a journal file",
    )
    callbacks: Names = Field(
        [],
        description="Ray Tune callbacks of your own, each a class named `package.module:name`",
        json_schema_extra=MAY_CHANGE,
    )
    results_dir: ResultsDir = Field(
        Path("results"), description="the folder that experiments are kept in", json_schema_extra=MAY_CHANGE
    )

    @property
    def objective(self) -> Objective:
        """The metric that trials are compared by, its direction, and the bounds that the best one keeps."""
        return Objective(self.metric, self.mode or "min", self._constraints)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Everything that the search optimizes: `objective`, then the other ones."""
        others = self.other_objectives.items()
        constraints = self._constraints
        return (self.objective, *(Objective(key, mode or "min", constraints) for key, mode in others))

    @property
    def _constraints(self) -> tuple[Constraint, ...]:
        return tuple(Constraint.parse(text) for text in self.constraints)

    def trials_wanted(self, wanted: str) -> int:
        """Read the number of trials of a resumed search: a number, or `+50` for 50 more.

        Raises:
            ConfigError: it is neither.
        """
        if not wanted.removeprefix("+").isdecimal():
            raise ConfigError(f"--trials '{wanted}' must be a number, or + and a number for more trials.")
        return self.num_trials + int(wanted) if wanted.startswith("+") else int(wanted)

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+=@-]{0,119}", name):
            raise ValueError(
                "an experiment is a folder of that name: up to 120 letters, digits and . _ + = @ -, "
                "beginning with a letter or digit"
            )
        return name

    @field_validator("sampler", "scheduler")
    @classmethod
    def _is_known(cls, name: str, info: ValidationInfo) -> str:
        shipped = SAMPLERS if info.field_name == "sampler" else SCHEDULERS
        if name not in shipped and ":" not in name:
            raise ValueError(
                f"search.{info.field_name} {name!r} must be {', '.join(shipped)}, or "
                f"`package.module:name` of your own.{nearest(name, shipped)}"
            )
        return name

    @field_validator("constraints")
    @classmethod
    def _are_constraints(cls, constraints: list[str]) -> list[str]:
        try:
            return [str(Constraint.parse(text)) for text in constraints]
        except ConfigError as error:
            raise ValueError(str(error).removesuffix(".")) from None

    @field_validator("storage")
    @classmethod
    def _no_secret_is_written_down(cls, storage: str | None) -> str | None:
        password = urlsplit(storage or "").password
        if password is not None and "$" not in password:
            raise ValueError(
                "search.storage must not hold a password, because it is written to the experiment's folder; "
                "put the password into an environment variable and write ${VARIABLE} in its place"
            )
        return storage


class ClusterConfig(Section):
    """Where the trials run."""

    shared_because: ClassVar[str | None] = "it says where trials run, not how one trains"
    fixed_because: ClassVar[str | None] = None

    address: str = Field(
        "auto",
        description="local: a Ray of its own; HOST:PORT: a cluster; auto: the one it is started in, if any",
    )
    num_cpus: Positive | None = Field(None, description="CPUs of a local Ray; null: all")
    num_gpus: int | None = Field(None, ge=0, description="GPUs of a local Ray; null: all")
    max_devices: Positive | None = Field(
        None, description="devices (GPUs, else nodes) to ask an autoscaler for; null: those that are there"
    )
    use_driver_node: bool = Field(True, description="whether trials may run on the node of this process")
    labels: dict[str, str] = Field({}, description="Ray node labels that a node must have, by name")
    resources: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        {}, description="custom Ray resources that each trial takes; it runs only where they are offered"
    )
    price_per_hour: float | None = Field(
        None, gt=0, description="of one device, for the estimate of --dry-run; null: not shown"
    )
