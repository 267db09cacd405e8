"""The Python interface: a search from a running event loop, and all that can be read of it afterwards."""

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import loratune as lt
from trainable.data import prepare
from trainable.model import load_tokenizer


@pytest.fixture(scope="module")
def searched(
    micro_base: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[lt.Experiment, dict[str, Any]]:
    """Search inside an event loop of another thread; return the experiment, and what changed meanwhile."""
    results = tmp_path_factory.mktemp("results")

    async def search() -> lt.Experiment:
        return lt.search(
            {"evaluation": {"eval_every_steps": 2, "text_metrics": "never"}},
            train=corpus / "train.json",
            val=corpus / "val.json",
            model=str(micro_base),
            space={"lora.r": {"type": "power_of_two", "low": 2, "high": 8}},
            trials=2,
            name="from-python",
            results_dir=results,
            overrides={"training.max_steps": 4, "wandb.mode": "disabled", "search.scheduler": "none"},
        )

    found: list[lt.Experiment] = []
    before = dict(os.environ), signal.getsignal(signal.SIGINT), os.fstat(1), os.fstat(2)
    thread = threading.Thread(target=lambda: found.append(asyncio.run(search())))
    thread.start()
    thread.join()
    after = dict(os.environ), signal.getsignal(signal.SIGINT), os.fstat(1), os.fstat(2)
    changed = {"before": before, "after": after}
    assert found, "the search raised an error in its thread"
    return found[0], changed


@pytest.mark.ray
def test_the_process_is_as_it_was(searched: tuple[lt.Experiment, dict[str, Any]]) -> None:
    _, changed = searched
    (environment, handler, *files), (environment_after, handler_after, *files_after) = changed.values()
    assert environment_after == environment
    assert handler_after is handler
    assert [(one.st_dev, one.st_ino) for one in files_after] == [(one.st_dev, one.st_ino) for one in files]


@pytest.mark.ray
def test_trials_and_curves(searched: tuple[lt.Experiment, dict[str, Any]]) -> None:
    experiment = lt.load(searched[0].path)
    assert [trial.state for trial in experiment.trials] == ["completed", "completed"]
    assert [step for step, _ in experiment.trials[0].curve("eval/loss")] == [2, 4]
    table = experiment.trials.to_arrow()
    assert table.num_rows == 2
    assert table["lora.r"].to_pylist() == [trial.params["lora.r"] for trial in experiment.trials]
    assert experiment.trials.to_pandas()["steps"].tolist() == [4, 4]
    assert [trial.number for trial in experiment.study.trials] == [0, 1]
    assert "2/2 trials" in repr(experiment)


@pytest.mark.ray
def test_the_best_adapter_gives_the_reported_loss(
    searched: tuple[lt.Experiment, dict[str, Any]], micro_base: Path
) -> None:
    best = searched[0].best
    assert best.metrics["eval/loss"] == searched[0].leaderboard[0].best_metrics["eval/loss"]
    assert best.config.lora.r == best.params["lora.r"]
    model, tokenizer = best.load("cpu")
    assert tokenizer.decode(tokenizer("rain")["input_ids"], skip_special_tokens=True) == "rain"
    data = prepare(best.config.data, load_tokenizer(best.config.model), tokenizer_id=str(micro_base))
    total, count = 0.0, 0
    for row in range(len(data.val)):
        ids, labels = (torch.from_numpy(part) for part in (data.val.ids(row), data.val.labels(row)))
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, :-1].float()
        total += functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum").item()
        count += int((labels[1:] != -100).sum())
    assert total / count == pytest.approx(best.metrics["eval/loss"], rel=1e-4)


def test_a_mistake_is_a_user_error_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lt.UserError, match=r"lora\.rank"):
        lt.search(train="a.json", val="b.json", overrides={"lora.rank": 3})
    with pytest.raises(lt.UserError, match=r"a\.json"):
        lt.train(train="a.json", val="b.json")
    with pytest.raises(lt.UserError, match="experiment 'nobody' does not exist"):
        lt.load("nobody")
    assert capfd.readouterr() == ("", "")
