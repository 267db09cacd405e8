"""The whole configuration: what one trial is configured by, and how the search over trials runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import Field, field_validator, model_validator

from trainable.config import (
    Layer,
    Section,
    TrialConfig,
    assemble,
    environment_layer,
    file_layers,
    flag_layer,
)
from trainable.config.sections import Positive

STUDY_NAME = "study.journal"
"""The Optuna journal's file name in an experiment's folder."""
DEFAULT_FILE = Path("config/base_config.yaml")
"""Read where no file is named, if it is there."""


class SearchConfig(Section):
    """Which trials are tried, and when a weak one is stopped."""

    name: str | None = Field(None, description="the experiment's name; null: made from the time")
    space: str | dict[str, Any] = Field(
        "lora", description="a preset (lora, weather_quick), a YAML file, or the axes themselves"
    )
    num_trials: Positive = Field(16, description="trials to try")
    metric: str = Field("eval/loss", description="the objective: any key of a metrics record")
    mode: Literal["min", "max"] = Field("min", description="min or max")
    sampler: Literal["tpe", "random", "grid", "gp", "cmaes", "qmc"] = Field(
        "tpe", description="tpe, random, grid, gp, cmaes or qmc (Optuna)"
    )
    startup_trials: Positive = Field(8, description="random trials before the sampler models anything")
    scheduler: Literal["asha", "median", "none"] = Field("asha", description="asha, median or none")
    grace_ratio: float = Field(
        0.25, gt=0, le=1, description="share of its steps that every trial gets before it can be stopped"
    )
    reduction_factor: float = Field(4, gt=1, description="asha keeps one in this many at each rung")
    max_concurrent: Positive | None = Field(None, description="trials at once; null: as many as fit")
    timeout_s: float | None = Field(None, gt=0, description="the search ends after this; null: no limit")
    seed: int = Field(0, ge=0, lt=2**31, description="the sampler's seed")
    storage: str | None = Field(
        None,
        description="a database's URL for the study, with ${VARIABLE} for its password; null: a journal file",
    )
    results_dir: Path = Field(Path("results"), description="the folder that experiments are kept in")

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

    address: Literal["local", "auto"] = Field(
        "local", description="local: a Ray of its own; auto: the cluster this machine belongs to"
    )
    num_cpus: Positive | None = Field(None, description="CPUs of a local Ray; null: all")
    num_gpus: int | None = Field(None, ge=0, description="GPUs of a local Ray; null: all")


class Config(TrialConfig):
    """A trial's configuration, the search over it, and where it runs."""

    search: SearchConfig = SearchConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _text_objective_needs_texts(self) -> "Config":
        if needs_texts(self.search.metric) and self.evaluation.text_metrics != "always":
            raise ValueError(
                f"search.metric '{self.search.metric}' is scored on generated texts: "
                "set evaluation.text_metrics to always"
            )
        return self

    def trial(self) -> TrialConfig:
        """Return the part that every trial starts from."""
        return TrialConfig.model_validate({name: getattr(self, name) for name in TrialConfig.model_fields})

    def to_yaml(self) -> str:
        """Return every key with its value, as a file that loads to the same configuration."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def needs_texts(metric: str) -> bool:
    """Whether a metric is scored on generated texts: all are but `eval/loss` and the training ones."""
    return metric != "eval/loss" and not metric.startswith("train/")


def storage_of(config: Config, directory: Path) -> Path | str:
    """Return where the study is: a database's URL, its variables unexpanded, or a journal file's path."""
    return config.search.storage or directory / STUDY_NAME


def load(
    path: Path | None = None,
    flags: list[str] | None = None,
    *layers: Layer,
    below: Sequence[Layer] = (),
) -> Config:
    """Read the configuration that a command runs with.

    Args:
        path: a YAML file; where none is given, `config/base_config.yaml` if it exists.
        flags: `--dotted.key value` words.
        *layers: what the command's own options set; they win over everything.
        below: what environment and flags win over, and the file does not.

    Raises:
        ConfigError: a key or value that is not allowed.
    """
    return load_with_sources(path, flags, *layers, below=below)[0]


def load_with_sources(
    path: Path | None = None,
    flags: list[str] | None = None,
    *layers: Layer,
    below: Sequence[Layer] = (),
) -> tuple[Config, dict[str, str]]:
    """Read the configuration, and who set each key that is not at its default."""
    if path is None and DEFAULT_FILE.exists():
        path = DEFAULT_FILE
    files = file_layers(path, Config) if path else []
    return assemble(Config, [*files, *below, environment_layer(), flag_layer(flags or [], Config), *layers])
