"""Takes an adapter home: in PEFT's format with a model card, or merged into the weights of its base model.

What was written is loaded again and scored on the validation rows; a copy that does not score what the search
reported is an error, and is not left behind.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from trainable.config import TrialConfig
from trainable.config.sections import is_gguf
from trainable.data import prepare
from trainable.errors import ConfigError, ExperimentError
from trainable.evaluation import sample_rows
from trainable.files import replaced_folder
from trainable.model import load_base, pick_device
from trainable.model.base import BaseModel, quiet
from trainable.records import EVAL_LOSS
from tune.read import hub
from tune.read.experiment import BestAdapter, Experiment
from tune.read.format import score, setting
from tune.read.loading import with_adapter
from tune.read.recompute import mean_loss, rounding_of

_CARD = "README.md"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: where.
        reported: the validation loss that the search reported for it.
        loss: the same, computed from what was written; `None` if that was not asked for.
        url: the repository that it was pushed to; `None` if that was not asked for.
    """

    folder: Path
    reported: float | None
    loss: float | None
    url: str | None = None


def export(
    experiment: Experiment,
    to: str | Path | None,
    *,
    trial: int | None = None,
    merge: bool = False,
    check: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Write an adapter, or the merged model, with its model card.

    Args:
        experiment: the search.
        to: the folder; it must not exist, or be empty. `hub:OWNER/NAME`: a repository, to which the folder
            `EXPERIMENT-adapter` or `EXPERIMENT-merged` is pushed once it is written. `None`: that folder.
        trial: the trial's number; `None`: the best one.
        merge: write the weights of base model and adapter together.
        check: load what was written and score it again.
        say: takes lines on the progress.

    Raises:
        ExperimentError: there is no such adapter, or what was written does not score what was reported.
        UserError: the folder is taken, the base model or the data cannot be read, or the repository refuses;
            the folder is kept then.
    """
    repo = hub.repo_of(str(to)) if str(to).startswith(hub.HUB) else None
    own_name = f"{experiment.name}-{'merged' if merge else 'adapter'}"
    folder = Path(own_name if to is None or repo else to)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        instead = "Move it away first" if repo else "Name another folder with --to"
        raise ConfigError(f"'{folder}' exists already. {instead}.")
    adapter = experiment.best if trial is None else experiment.adapter(trial)
    config = adapter.config
    if merge and config.model.load_in_4bit:
        raise ConfigError(
            "an adapter trained on 4-bit weights cannot be merged into them without loss. "
            "Export it without --merge."
        )
    base = load_base(config.model, pick_device("auto"), say) if merge or check else None
    reported = adapter.metrics.get(EVAL_LOSS)
    with replaced_folder(folder) as fresh:
        if merge:
            assert base is not None
            _write_merged(base, adapter, fresh)
        else:
            shutil.copytree(adapter.adapter, fresh, dirs_exist_ok=True)
        (fresh / _CARD).write_text(_card(experiment, adapter, folder, repo, merged=merge), encoding="utf-8")
        loss = None
        if check:
            assert base is not None
            loss = _rescored(base, config, adapter, fresh, merged=merge, say=say)
            rounding = rounding_of(base.module.dtype)
            if reported is not None and abs(loss - reported) > rounding * max(abs(reported), 1e-9):
                raise ExperimentError(
                    f"the exported {'model' if merge else 'adapter'} has {EVAL_LOSS} {loss:.6f}, and the "
                    f"search reported {reported:.6f}: nothing was written. Check the experiment with: "
                    f"loratune verify {experiment.name} --recompute"
                )
    return Exported(folder, reported, loss, hub.push(folder, repo) if repo else None)


def _write_merged(base: BaseModel, adapter: BestAdapter, folder: Path) -> None:
    merged = with_adapter(base, adapter.adapter).merge_and_unload(safe_merge=True)
    with quiet():
        merged.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)


def _rescored(
    base: BaseModel,
    config: TrialConfig,
    adapter: BestAdapter,
    folder: Path,
    *,
    merged: bool,
    say: Callable[[str], None],
) -> float:
    """Return the validation loss of what was written, on the rows that the search used.

    Raises:
        ExperimentError: the data files have changed since the search.
    """
    data = prepare(config.data, base.tokenizer, tokenizer_id=base.name_or_path, say=say)
    if data.data_hash != adapter.data_hash:
        raise ExperimentError(
            "the data files have changed since the search, so the export cannot be scored again. "
            "Restore them, or export with --no-check."
        )
    if merged:
        written = config.model.model_copy(update={"name": str(folder), "revision": None})
        model = load_base(written, base.module.device).module.eval()
    else:
        model = with_adapter(base, folder)
    with torch.inference_mode():
        return mean_loss(model, data.val, sample_rows(len(data.val), config.evaluation.max_rows))


def _card(
    experiment: Experiment, adapter: BestAdapter, folder: Path, repo: str | None, *, merged: bool
) -> str:
    """Return the model card, with the metadata that the hub reads."""
    config = adapter.config
    base = config.model.name
    license_name = _license(base)
    front: dict[str, Any] = {"library_name": "transformers" if merged else "peft"}
    if repo is None or (_HUB_NAME.fullmatch(base) and not Path(base).exists()):
        # The hub refuses a card that names a local folder as its base model.
        front |= {"base_model": base}
    front |= {"license": license_name} if license_name else {}
    front |= {"tags": ["lora", "loratune"]}
    kind = "Base model and LoRA adapter, merged" if merged else "LoRA adapter"
    metrics = {key: value for key, value in adapter.metrics.items() if "/" in key} | _test_metrics(
        experiment, adapter
    )
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
            f"# {experiment.name}, trial {adapter.trial.number}",
            "",
            f"{kind} for `{base}`, found by a search over {len(experiment.trials)} trials with loratune.",
            "",
            "## Parameters",
            "",
            "| key | value |\n|---|---|",
            *(f"| `{key}` | {setting(value)} |" for key, value in adapter.params.items()),
            "",
            f"Target modules: `{config.lora.target_modules}`. Trained for {adapter.metrics['step']} steps.",
            "",
            "## Metrics",
            "",
            "| metric | value |\n|---|---|",
            *(f"| `{key}` | {score(value)} |" for key, value in sorted(metrics.items())),
            "",
            "## Data",
            "",
            f"SHA-256 of training and validation rows: `{adapter.data_hash}`.",
            "",
            "## Loading",
            "",
            f"```python\n{_loading(base, repo or str(folder), merged=merged)}\n```",
            "",
            "## License",
            "",
            f"The base model's license is `{license_name}`."
            if license_name
            else f"The license of the base model `{base}` applies; see its own model card.",
            "",
        ]
    )


def _loading(base: str, folder: str, *, merged: bool) -> str:
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    source = f'"{base}"'
    if is_gguf(base):
        source = f'"{Path(base).parent}", gguf_file="{Path(base).name}"'
    if merged:
        lines += [
            f'model = AutoModelForCausalLM.from_pretrained("{folder}")',
            f'tokenizer = AutoTokenizer.from_pretrained("{folder}")',
        ]
    else:
        lines[:1] = ["from peft import PeftModel", lines[0]]
        lines += [
            f"base = AutoModelForCausalLM.from_pretrained({source})",
            f'model = PeftModel.from_pretrained(base, "{folder}")',
            f"tokenizer = AutoTokenizer.from_pretrained({source})",
        ]
    return "\n".join(lines)


def _test_metrics(experiment: Experiment, adapter: BestAdapter) -> dict[str, Any]:
    """Return the scores on the test rows, if this is the adapter that got some."""
    kept = experiment.best_metrics
    same = (kept.get("trial_id"), kept.get("step")) == (adapter.trial.trial_id, adapter.metrics.get("step"))
    return {key: value for key, value in kept.items() if same and key.startswith("test/")}


def _license(base: str) -> str | None:
    """Return the license that a local base model's card names."""
    try:
        text = (Path(base) / _CARD).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"\A---\n.*?^license:\s*([\w.+-]+)\s*$", text, re.MULTILINE | re.DOTALL)
    return match.group(1) if match else None
