"""The sections of a trial's configuration: one frozen, validated model each.

The same models serve YAML files, command-line flags and Python. A field's description is the comment that
`config/base_config.yaml` has for it, which a test checks. The defaults suit any task; that file's values
are the weather application's. Units are in the names.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from trainable.errors import ConfigError


def is_gguf(name: str | Path) -> bool:
    """Return whether a name is that of a GGUF file, by its suffix."""
    return Path(name).suffix.lower() == ".gguf"


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys.

    Attributes:
        shared_because: why a search cannot have an axis over a key of this section; `None`: it can.
        fixed_because: why a key cannot change when a search is resumed; `None`: it can. A field overrides it
            with `MAY_CHANGE` or `fixed(reason)`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    shared_because: ClassVar[str | None] = None
    fixed_because: ClassVar[str | None] = "trials that have ended were made with the old value"


_FIXED_BECAUSE = "fixed_because"
MAY_CHANGE: dict[str, Any] = {_FIXED_BECAUSE: None}
"""As a field's `json_schema_extra`: the key may change when a search is resumed."""


def fixed(reason: str) -> dict[str, Any]:
    """Return a field's `json_schema_extra` that says why the key cannot change on resume."""
    return {_FIXED_BECAUSE: reason}


def fixed_because(section: type[Section], name: str) -> str | None:
    """Return why a key of `section` cannot change when a search is resumed; `None` if it can."""
    extra = section.model_fields[name].json_schema_extra
    if isinstance(extra, dict) and _FIXED_BECAUSE in extra:
        return extra[_FIXED_BECAUSE]  # type: ignore[return-value]
    return section.fixed_because


REGEX = "regex:"
"""Starts a name that is a regular expression."""


def _split_names(value: Any) -> Any:
    """Read `q_proj,v_proj` from a flag as a list; leave `all-linear` a word, and a pattern in one piece."""
    if isinstance(value, str) and value.startswith(REGEX):
        return [value]
    if isinstance(value, str) and value != "all-linear":
        return [name.strip() for name in value.split(",") if name.strip()]
    return value


Names = Annotated[list[str], BeforeValidator(_split_names)]
Targets = Annotated[
    Literal["all-linear"] | Annotated[list[str], Field(min_length=1)], BeforeValidator(_split_names)
]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Rank = Annotated[int, Field(ge=1, le=1024)]

HUB_PREFIX = "hub:"
"""What a data set on a hub begins with, in place of a path."""
CORPUS_PREFIX = "corpus:"
"""What the name of a corpus that is made begins with, in place of a path."""


def _data_files(value: Any) -> Any:
    """Read one or several names: those of data sets stay text, all others are paths."""
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError("name at least one file")
        return tuple(_data_files(one) for one in value)
    is_path = isinstance(value, str) and not value.startswith((HUB_PREFIX, CORPUS_PREFIX))
    return Path(value) if is_path else value


DataFiles = Annotated[Path | str | tuple[Path | str, ...], BeforeValidator(_data_files)]
Role = Literal["prompt", "response", "input", "target", "system", "messages", "tools", "text"]
Fraction = Annotated[float, Field(ge=0, le=1)]


class ModelConfig(Section):
    """The frozen base model."""

    shared_because: ClassVar[str | None] = "all trials train over one base model"
    fixed_because: ClassVar[str | None] = "adapters belong to the base model that they were trained over"

    name: str = Field(
        "builtin:tiny", min_length=1, description="builtin:tiny, a hub name, a local folder, or a GGUF file"
    )
    revision: str | None = Field(None, description="the hub's branch, tag or commit")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 on a GPU, float32 on a CPU"
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = Field(
        None, description="sdpa, eager or flash_attention_2; null: what transformers chooses for the model"
    )
    load_in_4bit: bool = Field(False, description="NF4 weights through bitsandbytes; needs loratune[quant]")

    def path(self) -> Path | None:
        """Return the folder or the GGUF file on this machine that the name means; `None` if it means neither.

        A folder without `config.json` that holds one GGUF file means that file.

        Raises:
            ConfigError: such a folder holds several GGUF files.
        """
        path = Path(self.name).expanduser()
        if path.is_dir() and not (path / "config.json").is_file():
            files = sorted(file for file in path.iterdir() if is_gguf(file))
            if len(files) > 1:
                names = ", ".join(file.name for file in files)
                raise ConfigError(f"model.name '{self.name}' holds several GGUF files: {names}. Name one.")
            path = files[0] if files else path
        if path.is_dir():
            return path.resolve()
        # The file may be a link to one without a suffix, as in the hub's cache.
        return path.parent.resolve() / path.name if is_gguf(path) and path.is_file() else None

    def absolute(self) -> "ModelConfig":
        """Return a copy whose name holds in any working directory."""
        path = self.path()
        return self if path is None else self.model_copy(update={"name": str(path)})


class DataConfig(Section):
    """Where the rows are and how they become tokens."""

    shared_because: ClassVar[str | None] = "trials on different data cannot be compared"
    fixed_because: ClassVar[str | None] = "losses on other data cannot be compared with those in the study"

    train: DataFiles = Field(
        Path("train.jsonl"),
        description="files, globs, folders, corpus:weather@1500 or hub:owner/name; see docs/data.md",
    )
    val: DataFiles = Field(Path("val.jsonl"), description="the rows eval/loss is computed on")
    test: DataFiles | None = Field(None, description="kept for the end; may be null")
    columns: dict[Role, str] | None = Field(
        None, description="your columns, such as {prompt: question, response: reply}; null: detected"
    )
    max_length: int = Field(
        512, ge=8, description="tokens a row may have; longer ones are truncated, and counted"
    )
    prompt_template: str = Field(
        "{input}\n", description="the prompt of a row with an input, instruction or question"
    )

    @model_validator(mode="after")
    def _splits_belong_together(self) -> "DataConfig":
        splits = {"train": self.train, "val": self.val, "test": self.test}
        corpora = {
            name: str(source).rpartition("@")[0] if str(source).startswith(CORPUS_PREFIX) else None
            for name, source in splits.items()
            if source is not None
        }
        for name, corpus in corpora.items():
            if corpus != corpora["train"]:
                raise ValueError(
                    f"data.{name} '{splits[name]}' does not belong to data.train '{self.train}': take all "
                    "splits from one corpus, or name files of your own for each (data.test may be null)"
                )
        return self

    @model_validator(mode="after")
    def _template_holds_input(self) -> "DataConfig":
        if "{input}" not in self.prompt_template:
            raise ValueError(f"data.prompt_template {self.prompt_template!r} must contain {{input}}")
        return self

    @model_validator(mode="after")
    def _columns_are_a_form(self) -> "DataConfig":
        enough = ({"prompt", "response"}, {"input", "target"}, {"messages"}, {"text"})
        if self.columns is not None and not any(form <= set(self.columns) for form in enough):
            raise ValueError(
                f"data.columns {self.columns!r} must name prompt and response, input and target, messages, "
                "or text"
            )
        return self

    def absolute(self) -> "DataConfig":
        """Return a copy whose local paths hold in any working directory."""

        def resolve(files: Any) -> Any:
            if isinstance(files, tuple):
                return tuple(resolve(one) for one in files)
            return files.resolve() if isinstance(files, Path) else files

        return self.model_copy(update={key: resolve(getattr(self, key)) for key in ("train", "val", "test")})


class LoraConfig(Section):
    """The adapter: y = W x + scale * B A x, with scale = alpha / r (rsLoRA: alpha / sqrt(r))."""

    r: Rank = Field(16, description="rank")
    alpha: float = Field(32, gt=0, description="the update is scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the adapter's input, while training")
    target_modules: Targets = Field(
        "all-linear",
        description="all-linear, or names such as [q_proj, v_proj], or regex:PATTERN for whole names",
    )
    exclude_modules: Names | None = Field(
        None, description="names or regex:PATTERN of layers to leave out; null: none"
    )
    layers_to_transform: list[NonNegative] | None = Field(
        None, description="numbers of the blocks to adapt, from 0; null: all"
    )
    rank_pattern: dict[str, Rank] = Field(
        {}, description="ranks that differ from r, by the end of a layer's name (a pattern)"
    )
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="alphas that differ from alpha, likewise"
    )
    use_rslora: bool = Field(False, description="scale by alpha / sqrt(r) instead")
    init: Literal["kaiming", "gaussian", "orthogonal"] = Field(
        "kaiming", description="initial A (kaiming, gaussian; B is 0), or orthogonal A and B"
    )
    lr_ratio: float = Field(
        1.0, gt=0, description="learning rate of B, as a multiple of training.learning_rate (LoRA+)"
    )

    @model_validator(mode="after")
    def _ranks_are_even_for_orthogonal(self) -> "LoraConfig":
        odd = [rank for rank in (self.r, *self.rank_pattern.values()) if rank % 2]
        if self.init == "orthogonal" and odd:
            raise ValueError(f"lora.init orthogonal needs even ranks; {odd[0]} is odd")
        return self


class TrainingConfig(Section):
    """How one adapter is optimized (AdamW)."""

    learning_rate: float = Field(2e-4, gt=0, description="the peak of the schedule")
    lr_scheduler: Literal["linear", "cosine", "constant"] = Field(
        "cosine", description="linear, cosine or constant, after the warm-up"
    )
    warmup_ratio: Fraction = Field(0.05, description="share of the steps in which the rate rises from 0")
    batch_size: Positive = Field(4, description="rows in one forward pass of this trial")
    gradient_accumulation_steps: Positive = Field(1, description="forward passes for one optimizer step")
    max_steps: Positive | None = Field(
        None, description="optimizer steps; null: as `epochs` says", json_schema_extra=MAY_CHANGE
    )
    epochs: float = Field(
        3.0,
        gt=0,
        description="passes over the training rows, where max_steps is null",
        json_schema_extra=MAY_CHANGE,
    )
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first-moment decay")
    beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's second-moment decay")
    epsilon: float = Field(1e-8, gt=0, description="AdamW's epsilon")
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="gradients are scaled down to this norm; null: never"
    )
    seed: int = Field(42, ge=0, lt=2**31, description="initial adapter, data order and dropout")


class EvaluationConfig(Section):
    """When a trial is evaluated, and on what."""

    shared_because: ClassVar[str | None] = "trials that are evaluated differently cannot be compared"

    eval_every_steps: Positive = Field(25, description="optimizer steps between two evaluations")
    max_rows: Positive | None = Field(
        None, description="validation rows for eval/loss, a fixed random sample; null: all"
    )
    batch_size: Positive = Field(
        16, description="rows in one forward pass of evaluation", json_schema_extra=MAY_CHANGE
    )
    text_metrics: Literal["never", "end", "always"] = Field(
        "end", description="generate and score texts: never, at the end of a run, or at every evaluation"
    )
    text_rows: Positive = Field(
        32,
        description="rows that texts are generated for, a fixed random sample",
        json_schema_extra=MAY_CHANGE,
    )
    max_new_tokens: Positive | None = Field(
        None,
        description="tokens generated for a row, greedily; null: as many as the longest validation target",
    )
    metrics: Names = Field(
        ["nlg", "text"],
        description="metric families: nlg, text, weather, or `package.module:function` of your own",
    )
    overall_weights: dict[str, float] = Field(
        {"nlg/bleu_score": 0.4, "nlg/rouge_l_f": 0.4, "eval/length_similarity": 0.2},
        description="eval/overall_score is the weighted mean of these, as far as they are configured",
    )

    @model_validator(mode="after")
    def _weights_are_usable(self) -> "EvaluationConfig":
        if any(weight < 0 for weight in self.overall_weights.values()) or not sum(
            self.overall_weights.values()
        ):
            raise ValueError("evaluation.overall_weights must be non-negative, with one above 0")
        return self


class EngineConfig(Section):
    """How trials share a device."""

    shared_because: ClassVar[str | None] = "all trials on a device share one engine"
    fixed_because: ClassVar[str | None] = None

    slots_per_device: Positive | Literal["auto"] = Field(
        "auto", description="trials that train together on one device; auto: as many as memory fits"
    )
    max_tokens_per_pass: int | Literal["auto"] = Field(
        "auto", description="padded tokens in one fused forward pass; auto: fitted to memory"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute the model's blocks again in backward: less memory, a third more time"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")

    @model_validator(mode="after")
    def _budget_holds_a_row(self) -> "EngineConfig":
        if self.max_tokens_per_pass != "auto" and self.max_tokens_per_pass < 64:
            raise ValueError(f"engine.max_tokens_per_pass {self.max_tokens_per_pass} must be at least 64")
        return self


class WandbConfig(Section):
    """Tracking in Weights & Biases."""

    shared_because: ClassVar[str | None] = "it says how the search is tracked, not how a trial trains"
    fixed_because: ClassVar[str | None] = None

    project: str = Field("loratune", min_length=1, description="W&B project name")
    entity: str | None = Field(None, description="your username or team; null: your default")
    name: str | None = Field(None, description="run name; null: made from the trial's parameters")
    group: str | None = Field(None, description="group of single runs; a search uses its name")
    tags: Names = Field([], description="tags of every run")
    notes: str | None = Field(None, description="notes of every run")
    mode: Literal["online", "offline", "disabled"] | None = Field(
        None, description="online, offline or disabled; null: online with an API key, offline without"
    )
    log_model: Literal["checkpoint", "best", "end", False] = Field(
        "checkpoint",
        description="checkpoints that become versions of an artifact: checkpoint (all), best, end or false",
    )
    keep_versions: Positive | None = Field(
        10,
        description="versions of a search that stay: the best, and the last of each live trial; null: all",
    )
    log_freq: Positive = Field(
        100, description="steps between two training rows of a single run; a search has one per evaluation"
    )
    log_gradients: bool = Field(True, description="histograms of the adapter's gradients, before clipping")
    log_parameters: bool = Field(True, description="histograms of the adapter's parameters")
    watch_model: bool = Field(
        True, description="describe the model in the run's configuration; needed for the two histograms above"
    )
    watch_freq: Positive = Field(1000, description="optimizer steps between two histograms")
    save_code: bool = Field(
        True, description="save a snapshot of the project's code, once a search; no secrets, no data"
    )
    log_artifacts: bool = Field(
        True, description="false: no artifacts at all, neither checkpoints nor the data's manifest nor code"
    )
    log_predictions: bool = Field(
        True, description="log a table of sample predictions wherever texts are generated"
    )
    num_predictions: int = Field(10, ge=0, description="rows of that table; the same prompts every time")
    custom_metrics: Names = Field(
        ["bleu_score", "rouge_1_f", "rouge_2_f", "rouge_l_f"],
        description="metrics, by their last name, with their best value as a column of the runs table",
    )
    log_system_metrics: bool = Field(True, description="track GPU, CPU and memory")
    include: Names = Field(
        [], description="patterns of the metrics that are logged, such as eval/*; empty: all"
    )
    exclude: Names = Field([], description="patterns of metrics and configuration keys that are left out")
    on_run: str | None = Field(
        None, description="`package.module:function` that is called with each run's URL, trial id and number"
    )


class TrialConfig(Section):
    """Everything one trial is configured by."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    lora: LoraConfig = LoraConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    engine: EngineConfig = EngineConfig()
    wandb: WandbConfig = WandbConfig()
