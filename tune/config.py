"""The whole configuration: what one trial is configured by, and how the search over trials runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainable.config import (
    Layer,
    TrialConfig,
    assemble,
    environment_layer,
    file_layers,
    flag_layer,
    mapping_layer,
)
from trainable.config.layers import parse_yaml, split_known
from trainable.errors import ConfigError, nearest
from trainable.evaluation.catalogue import Catalogue, Metric
from trainable.objective import Direction, Objective
from trainable.places import Place, place_of
from tune.sections import ClusterConfig, SearchConfig

FORMAT = 2
"""Of a stored configuration; 2: with its axes and absolute paths written out."""
DEFAULT_FILE = Path("config/base_config.yaml")
"""Read where no file is named, if it is there."""
SHIPPED = Path(__file__).parent / "shipped"
"""The configurations of `config/`, also where loratune was installed from a wheel."""


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
        """The metric that trials are compared by, its direction, and the bounds that the best one keeps."""
        return self.search.objective

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
        """Check objectives and constraints against the configured metrics, and fill in the directions.

        Raises:
            ConfigError: no family has a metric, its direction is unknown, or it is never computed.
        """
        catalogue, search = Catalogue.of(self.evaluation.metrics), self.search
        own = self._scored(catalogue, "metric", search.metric).direction
        mode = search.mode or own
        if mode is None:
            raise ConfigError(
                f"search.metric '{search.metric}' has no direction of its own: set search.mode to min or max."
            )
        others: dict[str, Direction | None] = {}
        for other, given in search.other_objectives.items():
            own = self._scored(catalogue, "other_objectives", other).direction
            direction = given or own
            if direction is None:
                raise ConfigError(
                    f"search.other_objectives: '{other}' has no direction of its own: write "
                    f"{{{other}: min}} or {{{other}: max}}."
                )
            if other == search.metric:
                raise ConfigError(f"search.other_objectives: '{other}' is search.metric already.")
            others[other] = direction
        for constraint in self.objective.constraints:
            self._scored(catalogue, "constraints", constraint.metric)
        update = {"mode": mode, "other_objectives": others}
        return self.model_copy(update={"search": search.model_copy(update=update)})

    def _scored(self, catalogue: Catalogue, setting: str, key: str) -> Metric:
        """Return what is known of a metric that every record of a trial has to have.

        Raises:
            ConfigError: no family has it, or it is not computed at every evaluation.
        """
        try:
            metric = catalogue.get(key)
        except ConfigError as error:
            raise ConfigError(f"search.{setting} = {key!r} is not allowed: {error}") from None
        if metric.needs_texts and self.evaluation.text_metrics != "always":
            raise ConfigError(
                f"search.{setting} '{key}' is scored on generated texts: "
                "set evaluation.text_metrics to always"
            )
        return metric

    def _with_sound_scores(self) -> "Config":
        """Refuse an objective or a weight that rewards poor texts.

        A search that was started with one by an earlier version can still be resumed.

        Raises:
            ConfigError: says why, and what can be used instead.
        """
        catalogue = Catalogue.of(self.evaluation.metrics)
        catalogue.check_weights(self.evaluation.overall_weights)
        for objective in self.search.objectives:
            try:
                catalogue.check_objective(objective.metric)
            except ConfigError as error:
                setting = "metric" if objective.metric == self.search.metric else "other_objectives"
                raise ConfigError(f"search.{setting}: {error}") from None
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
