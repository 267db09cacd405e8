"""What is taken home loads with plain transformers and scores what the search reported."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.gguf_files import write_gguf
from tests.support.trained_experiment import TRIAL_ID, trained_experiment
from trainable.errors import CheckpointError, ConfigError, ExperimentError
from tune.read.experiment import Experiment
from tune.read.export import export
from tune.read.predict import Predictor
from tune.read.verify import verify
from tune.store.experiment import ExperimentStore
from tune.store.reader import read

TEXT = "a light rain in the morning"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, micro_base: Path, corpus: Path) -> ExperimentStore:
    return trained_experiment(tmp_path_factory.mktemp("results") / "mine", micro_base, corpus)


@pytest.fixture
def experiment(store: ExperimentStore) -> Experiment:
    return Experiment(read(store))


def logits(model: object, base: Path) -> torch.Tensor:
    ids = AutoTokenizer.from_pretrained(base)(TEXT, return_tensors="pt").input_ids
    with torch.inference_mode():
        return model(input_ids=ids).logits  # type: ignore[operator]


def test_adapter_and_merged_model_agree_with_the_search(
    experiment: Experiment, micro_base: Path, tmp_path: Path
) -> None:
    adapter = export(experiment, tmp_path / "adapter")
    merged = export(experiment, tmp_path / "merged", merge=True)
    for written in (adapter, merged):
        assert written.reported is not None
        assert written.loss == pytest.approx(written.reported, rel=1e-4)
    base = AutoModelForCausalLM.from_pretrained(micro_base)
    bare = logits(base, micro_base)
    wrapped = logits(PeftModel.from_pretrained(base, tmp_path / "adapter").eval(), micro_base)
    whole = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), micro_base)
    assert torch.allclose(wrapped, whole, atol=1e-4)
    assert not torch.allclose(bare, wrapped, atol=1e-3)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")(TEXT).input_ids


def test_what_was_trained_over_a_gguf_file_is_taken_home_as_any_other(
    micro_base: Path, corpus: Path, tmp_path: Path
) -> None:
    file = write_gguf(micro_base, tmp_path / "tiny.gguf")
    experiment = Experiment(read(trained_experiment(tmp_path / "results" / "mine", file, corpus)))
    for merge, folder in ((False, tmp_path / "adapter"), (True, tmp_path / "merged")):
        written = export(experiment, folder, merge=merge)
        assert written.reported is not None
        assert written.loss == pytest.approx(written.reported, rel=1e-4)
    card = (tmp_path / "adapter" / "README.md").read_text()
    snippet = card.partition("```python\n")[2].partition("```")[0]
    found: dict[str, Any] = {}
    exec(snippet, found)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    ids = found["tokenizer"](TEXT, return_tensors="pt").input_ids
    with torch.inference_mode():
        assert torch.allclose(
            found["model"].eval()(input_ids=ids).logits, merged(input_ids=ids).logits, atol=1e-4
        )


def test_the_card_says_what_it_is_and_how_to_load_it(
    experiment: Experiment, micro_base: Path, tmp_path: Path
) -> None:
    export(experiment, tmp_path / "adapter", trial=0, check=False)
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert card.startswith(f"---\nlibrary_name: peft\nbase_model: {micro_base}\n")
    assert "| `training.learning_rate` | 0.02 |" in card
    assert "| `eval/loss` | " in card
    assert experiment.best.data_hash in card
    program = card.partition("```python\n")[2].partition("```")[0]
    names: dict[str, object] = {}
    exec(program, names)
    assert torch.isfinite(logits(names["model"], micro_base)).all()


def test_an_adapter_that_does_not_score_what_was_reported_is_not_written(
    store: ExperimentStore, tmp_path: Path, micro_base: Path, corpus: Path
) -> None:
    copy = tmp_path / "mine"
    shutil.copytree(store.folder, copy)
    experiment = Experiment(read(ExperimentStore(copy)))
    experiment.best.metrics["eval/loss"] += 0.01
    with pytest.raises(ExperimentError, match="nothing was written"):
        export(experiment, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_truncated_best_adapter_is_named_by_verify_and_by_what_loads_it(
    store: ExperimentStore, tmp_path: Path, name: str
) -> None:
    copy = ExperimentStore(shutil.copytree(store.folder, tmp_path / "mine"))
    collected = copy.folder / "best"
    shutil.copytree(copy.folder / TRIAL_ID / "checkpoint_000000" / "adapter", collected / "adapter")
    log = copy.trial(TRIAL_ID).log()
    (collected / "metrics.json").write_text(json.dumps({"trial_id": TRIAL_ID, "step": log[-1].step}))
    assert not [line for line in verify(copy).problems if line.startswith("best/")]
    file = collected / "adapter" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert [line for line in verify(copy).problems if line.startswith(f"best/adapter/{name}: it is corrupt")]
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        Experiment(read(copy)).best.load("cpu")
    file.unlink()
    assert f"best/adapter/{name}: it is missing" in verify(copy).problems


def test_a_folder_that_is_taken_is_left_alone(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        export(experiment, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["own.txt"]


def test_predictions_for_rows_with_and_without_targets(experiment: Experiment, tmp_path: Path) -> None:
    rows = [{"input": "wind 12 mph", "target": "Breezy."}, {"input": "wind 3 mph"}, {"prompt": "sun"}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    predictor = Predictor(experiment.best, device="cpu", max_new_tokens=6)
    first, second, third = predictor.predict(file)
    assert (first.row, first.reference) == (1, "Breezy.")
    assert "wind 12 mph" in first.prompt
    assert (second.reference, third.reference) == (None, None)
    assert third.prompt == "sun"
    assert json.loads(second.to_json())["row"] == 2
    # What generate() writes of the same prompt by itself.
    model, tokenizer = experiment.best.load("cpu")
    ids = tokenizer(second.prompt, return_tensors="pt").input_ids
    written = model.generate(input_ids=ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
    assert second.prediction == tokenizer.decode(written, skip_special_tokens=True).strip()


def test_a_model_without_a_chat_template_answers_the_last_turn(experiment: Experiment) -> None:
    predictor = Predictor(experiment.best, device="cpu", max_new_tokens=4)
    assert not predictor.is_chat
    assert predictor.answer(["x", "y", "wind"]) == predictor.answer(["wind"])


def test_a_chat_model_sees_all_turns_in_its_template(
    experiment: Experiment, micro_base: Path, tmp_path: Path
) -> None:
    chatty = tmp_path / "base"
    shutil.copytree(micro_base, chatty)
    tokenizer = AutoTokenizer.from_pretrained(chatty)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokenizer.save_pretrained(chatty)
    best = experiment.best
    model = best.config.model.model_copy(update={"name": str(chatty)})
    chatting = replace(best, config=best.config.model_copy(update={"model": model}))
    predictor = Predictor(chatting, device="cpu", max_new_tokens=5)
    assert predictor.is_chat
    module, _ = best.load("cpu")
    prompt = "user: sun\nassistant: warm\nuser: wind\nassistant: "
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    written = module.generate(input_ids=ids, max_new_tokens=5, do_sample=False)[0, ids.shape[1] :]
    expected = tokenizer.decode(written, skip_special_tokens=True).strip()
    assert predictor.answer(["sun", "warm", "wind"]) == expected


def test_a_trial_without_a_checkpoint_has_no_adapter(store: ExperimentStore, tmp_path: Path) -> None:
    copy = tmp_path / "mine"
    shutil.copytree(store.folder, copy)
    shutil.rmtree(copy / TRIAL_ID / "checkpoint_000000")
    with pytest.raises(ExperimentError, match="trial 0 of 'mine' has no adapter"):
        Experiment(read(ExperimentStore(copy))).adapter(0)
