"""The whole configuration: what one trial is configured by, and how the search over trials runs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

import yaml
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from trainable.config import (
    Layer,
    Section,
    TrialConfig,
    assemble,
    environment_layer,
    file_layers,
    flag_layer,
    mapping_layer,
)
from trainable.config.layers import parse_yaml, split_known
from trainable.config.sections import MAY_CHANGE, Names, Positive, fixed
from trainable.errors import ConfigError, nearest
from trainable.evaluation.catalogue import Catalogue
from trainable.objective import Direction, Objective
from trainable.places import Place, place_of


def _results_dir(value: Any) -> Any:
    try:
        return place_of(value) if isinstance(value, str | Path) else value
    except ConfigError as error:
        # The message goes on after this one.
        raise ValueError(str(error).removesuffix(".")) from None


ResultsDir = Annotated[Place, BeforeValidator(_results_dir)]

_OTHER_OBJECTIVE = fixed("the study was given another objective")

FORMAT = 2
"""Of a stored configuration; 2: with its axes and absolute paths written out."""
DEFAULT_FILE = Path("config/base_config.yaml")
"""Read where no file is named, if it is there."""
SHIPPED = Path(__file__).parent / "shipped"
"""The configurations of `config/`, also where loratune was installed from a wheel."""


SAMPLERS = ("tpe", "random", "grid", "gp", "cmaes", "qmc")
"""The samplers that come with loratune; each is made in `tune.search.samplers`."""
SCHEDULERS = ("asha", "median", "none")
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
        description="tpe, random, grid, gp, cmaes, qmc, or `package.module:name` of your own",
        json_schema_extra=MAY_CHANGE,
    )
    startup_trials: Positive = Field(
        8, description="random trials before the sampler models anything", json_schema_extra=MAY_CHANGE
    )
    scheduler: str = Field(
        "asha",
        description="asha, median, none, or `package.module:name` of your own",
        json_schema_extra=MAY_CHANGE,
    )
    grace_ratio: float = Field(
        0.25,
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


class Config(TrialConfig):
    """A trial's configuration, the search over it, and where it runs.

    There are two ways to one: `assemble` for a command that is about to act, `parse` for an experiment that
    was stored. Reading depends on the stored file alone: not on the environment, and not on what is
    importable.
    """

    search: SearchConfig = SearchConfig()
    cluster: ClusterConfig = ClusterConfig()

    @classmethod
    def assemble(
        cls,
        path: Path | None = None,
        flags: Sequence[str] = (),
        *layers: Layer,
        below: Sequence[Layer] = (),
    ) -> "Config":
        """Put together the configuration that a command runs with.

        Args:
            path: a YAML file, or the bare name of a shipped one; where none is given,
                `config/base_config.yaml` if it exists.
            flags: `--dotted.key value` words.
            *layers: what the command's own options set; they win over everything.
            below: what environment and flags win over, and the file does not.

        Raises:
            ConfigError: a key or value that is not allowed, or an objective that rewards poor texts.
        """
        return cls.assemble_with_sources(path, flags, *layers, below=below)[0]

    @classmethod
    def assemble_with_sources(
        cls,
        path: Path | None = None,
        flags: Sequence[str] = (),
        *layers: Layer,
        below: Sequence[Layer] = (),
    ) -> tuple["Config", dict[str, str]]:
        """Put together the configuration, and say who set each key that is not at its default."""
        layered = [*files_of(path), *below, environment_layer(), flag_layer(flags, cls), *layers]
        config, sources = assemble(cls, layered)
        return config._with_direction()._with_sound_scores(), sources

    @classmethod
    def from_layers(cls, layers: Sequence[Layer]) -> "Config":
        """Put together a configuration from these layers alone.

        Raises:
            ConfigError: a key or value that is not allowed, or an objective that rewards poor texts.
        """
        return assemble(cls, layers)[0]._with_direction()._with_sound_scores()

    @classmethod
    def parse(cls, text: str, source: str, results_dir: Place) -> "StoredConfig":
        """Read an experiment's stored configuration.

        Keys that this version does not know are kept and reported, so that an experiment of a newer version
        can be looked at, and stays what it is when an older one resumes it.

        Args:
            text: the file's.
            source: names the file in messages.
            results_dir: where the experiment lies now, not where it was written: it can be moved.

        Raises:
            ConfigError: the text is not YAML, or has a value that is not allowed.
        """
        content = parse_yaml(text, source)
        stored_format = content.pop("format", 1)
        known, unknown = split_known(content, cls)
        known["search.results_dir"] = results_dir
        notes = [f"{source}: '{key}' is unknown to this version and has no effect" for key in unknown]
        if not isinstance(stored_format, int) or stored_format > FORMAT:
            notes.append(f"{source} was written by a newer version (format {stored_format}, not {FORMAT})")
        config, _ = assemble(cls, [Layer(source, known)])
        return StoredConfig(config, unknown, notes)

    @property
    def objective(self) -> Objective:
        """The metric that the search optimizes, and its direction."""
        return Objective(self.search.metric, self.search.mode or "min")

    def trial(self) -> TrialConfig:
        """Return the part that every trial starts from."""
        return TrialConfig.model_validate({name: getattr(self, name) for name in TrialConfig.model_fields})

    def to_yaml(self, unknown: Mapping[str, Any] | None = None) -> str:
        """Return every key with its value, as a file that loads to the same configuration.

        Args:
            unknown: keys of another version, by dotted name, to keep in the file.
        """
        content = {"format": FORMAT, **self.model_dump(mode="json")}
        for key, value in (unknown or {}).items():
            *path, last = key.split(".")
            branch = content
            for name in path:
                branch = branch.setdefault(name, {})
            branch[last] = value
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)

    def _with_direction(self) -> "Config":
        """Check the objective against the configured metrics, and fill in its direction.

        Raises:
            ConfigError: no family has the metric, its direction is unknown, or it is never computed.
        """
        key = self.search.metric
        try:
            metric = Catalogue.of(self.evaluation.metrics).get(key)
        except ConfigError as error:
            raise ConfigError(f"search.metric = {key!r} is not allowed: {error}") from None
        mode = self.search.mode or metric.direction
        if mode is None:
            raise ConfigError(
                f"search.metric '{key}' has no direction of its own: set search.mode to min or max."
            )
        if metric.needs_texts and self.evaluation.text_metrics != "always":
            raise ConfigError(
                f"search.metric '{key}' is scored on generated texts: set evaluation.text_metrics to always"
            )
        return self.model_copy(update={"search": self.search.model_copy(update={"mode": mode})})

    def _with_sound_scores(self) -> "Config":
        """Refuse an objective or a weight that rewards poor texts.

        A search that was started with one by an earlier version can still be resumed.

        Raises:
            ConfigError: says why, and what can be used instead.
        """
        catalogue = Catalogue.of(self.evaluation.metrics)
        catalogue.check_weights(self.evaluation.overall_weights)
        try:
            catalogue.check_objective(self.search.metric)
        except ConfigError as error:
            raise ConfigError(f"search.metric: {error}") from None
        return self


@dataclass(frozen=True)
class StoredConfig:
    """The configuration of a stored experiment.

    Attributes:
        config: what this version knows of it.
        unknown: keys of another version, by dotted name.
        notes: what a person should know about the file; one sentence each.
    """

    config: Config
    unknown: Mapping[str, Any]
    notes: Sequence[str]

    def changed(self, layers: Sequence[Layer]) -> "StoredConfig":
        """Return it as it is resumed with: the environment's W&B mode, and `layers`, over what is stored.

        What names a run in W&B stays as the search was started with.

        Raises:
            ConfigError: a key or value that is not allowed.
        """
        stored = mapping_layer(self.config.model_dump(mode="json"), Config, "stored configuration")
        environment = environment_layer()
        mode = {key: value for key, value in environment.values.items() if key == "wandb.mode"}
        config, _ = assemble(Config, [stored, Layer(environment.source, mode), *layers])
        return StoredConfig(config._with_direction(), self.unknown, self.notes)


def named_file(name: Path) -> Path:
    """Return the file that a command names: a path, or the bare name of a shipped one such as `quickstart`.

    Raises:
        ConfigError: there is neither.
    """
    if name.exists():
        return name
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}
    if str(name) in shipped:
        return shipped[str(name)]
    raise ConfigError(
        f"configuration file '{name}' does not exist.{nearest(str(name), shipped)} Write one with "
        f"`loratune init`, or name a shipped one: {', '.join(shipped)}."
    )


def files_of(path: Path | None, *, only: str | None = None) -> list[Layer]:
    """Return the layers of a file that a command names, else of `config/base_config.yaml` if it exists.

    Args:
        path: as in `Config.assemble`.
        only: read this section and leave the others alone.

    Raises:
        ConfigError: the file is missing, or is not a configuration.
    """
    if path is None:
        return file_layers(DEFAULT_FILE, Config, only=only) if DEFAULT_FILE.exists() else []
    return file_layers(named_file(path), Config, only=only)


def results_folder(path: Path | None = None) -> Place:
    """Return `search.results_dir` of a file alone: nothing else of it is read, nor the environment.

    Args:
        path: as in `Config.assemble`.

    Raises:
        ConfigError: the file is missing, its `search` section has an unknown key, or the folder is a URI
            that is not supported.
    """
    key = "search.results_dir"
    given = [layer.values[key] for layer in files_of(path, only="search") if key in layer.values]
    return place_of(given[-1]) if given else SearchConfig().results_dir
