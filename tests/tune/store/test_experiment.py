"""What an experiment's folder keeps, and that looking at it changes nothing."""

from pathlib import Path
from typing import Any

import pytest

from search_spaces import Space
from tests.support.experiments import ExperimentBuilder
from trainable.errors import ExperimentError
from tune.config import Config
from tune.experiment import resolve
from tune.store.experiment import ExperimentStore
from tune.store.reader import read


def config_of(folder: Path, **search: Any) -> Config:
    settings = {"name": "e", "results_dir": folder / "results", "mode": "min", **search}
    return Config.model_validate({"search": settings})


@pytest.mark.parametrize("storage", [None, "sqlite:///{folder}/study.db"])
def test_a_reader_creates_nothing_and_the_search_gets_its_own_direction(
    tmp_path: Path, storage: str | None
) -> None:
    url = storage.format(folder=tmp_path) if storage else None
    config = config_of(tmp_path, mode="max", storage=url)
    store = ExperimentStore.create(config)
    before = sorted(tmp_path.rglob("*"))
    assert read(store).trials == []
    assert sorted(tmp_path.rglob("*")) == before
    assert store.create_study(config).study.direction.name == "MAXIMIZE"
    assert read(store).status().counts == {}


def test_a_study_of_another_direction_is_an_error(tmp_path: Path) -> None:
    store = ExperimentStore.create(config_of(tmp_path, mode="max"))
    store.create_study(config_of(tmp_path, mode="max"))
    other = config_of(tmp_path, mode="min")
    with pytest.raises(
        ExperimentError, match=r"created to maximize its objective.*asks to minimize eval/loss"
    ):
        store.open_study(other)
    with pytest.raises(ExperimentError, match="created to maximize"):
        store.create_study(other)


def test_what_is_stored_means_the_same_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    work.mkdir()
    elsewhere.mkdir()
    (work / "model").mkdir()
    (work / "space.yaml").write_text("lora.r: {type: power_of_two, low: 4, high: 16}\n")
    monkeypatch.chdir(work)
    config = Config.model_validate(
        {
            "search": {"name": "e", "space": "space.yaml", "storage": "sqlite:///study.db"},
            "data": {"train": "train.json", "val": "val.json", "test": None},
            "model": {"name": "model"},
        }
    )
    resolved = resolve(config, Space.load(config.search.space, config.trial()))
    store = ExperimentStore.create(resolved)
    monkeypatch.chdir(elsewhere)
    (work / "space.yaml").write_text("lora.r: {type: power_of_two, low: 4, high: 1024}\n")
    stored = store.read_config().config
    axes = Space.load(stored.search.space, stored.trial()).axes
    assert (axes["lora.r"].low, axes["lora.r"].high) == (4, 16)  # type: ignore[attr-defined]
    assert stored.search.storage == f"sqlite:///{work / 'study.db'}"
    assert (stored.data.train, stored.model.name) == (work / "train.json", str(work / "model"))
    assert list(elsewhere.iterdir()) == []


def test_a_moved_and_renamed_experiment_is_resumed_with_its_attempts(tmp_path: Path) -> None:
    made = ExperimentBuilder(tmp_path / "results" / "before", scheduler="none")
    made.begin("done", 5, 10, 15, 20, state="completed")
    made.searcher.on_trial_complete("done", {"step": 20, "trial_state": "completed", "eval/loss": 0.05})
    longer = made.plan({"training.max_steps": 40})
    from tune.search.resume import carry_out, plan

    carry_out(longer, made.open(0))
    folder = tmp_path / "elsewhere" / "after"
    folder.parent.mkdir()
    made.folder.rename(folder)
    store = ExperimentStore.find(str(folder), Path("results"))
    stored = store.read_config()
    assert stored.config.search.results_dir == folder.parent
    again = plan(store, stored.config, stored)
    attempt = again.plan.decisions[1]
    assert attempt.checkpoint is not None
    assert Path(attempt.checkpoint.path).is_relative_to(folder)
    assert attempt.checkpoint.step == 20


def test_data_elsewhere_may_be_named_on_resume(tmp_path: Path) -> None:
    made = ExperimentBuilder(tmp_path / "results" / "e", scheduler="none")
    made.begin("half", 5)
    assert list(made.plan({"data.train": "/other/place/train.json"}).changes) == ["data.train"]


def test_keys_of_a_newer_version_are_kept_and_reported(tmp_path: Path) -> None:
    made = ExperimentBuilder(tmp_path / "results" / "e")
    path = made.folder / "config.yaml"
    text = path.read_text().replace("lora:\n", "lora:\n  warp_factor: 9\n")
    path.write_text(text.replace("format: 2", "format: 99") + "teleport: {target: moon}\n")
    stored = made.store.read_config()
    assert stored.config.lora == made.config.lora
    assert [note.partition(": ")[2] for note in stored.notes[:2]] == [
        "'lora.warp_factor' is unknown to this version and has no effect",
        "'teleport' is unknown to this version and has no effect",
    ]
    assert "written by a newer version (format 99, not 2)" in stored.notes[2]
    made.store.write_config(stored)
    assert made.store.read_config().unknown == {"lora.warp_factor": 9, "teleport": {"target": "moon"}}


def test_reading_does_not_depend_on_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ExperimentBuilder(tmp_path / "results" / "e")
    monkeypatch.setenv("WANDB_MODE", "no such mode")
    monkeypatch.setenv("WANDB_PROJECT", "elsewhere")
    assert read(made.store).config.wandb == made.config.wandb


@pytest.mark.parametrize("kind", ["file", "read-only"])
def test_a_results_folder_that_cannot_be_written_to_is_one_message(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "results"
    if kind == "file":
        place.write_text("not a folder")
    else:
        # Root may write anywhere; a path below a file is refused to everybody.
        (tmp_path / "blocker").write_text("")
        place = tmp_path / "blocker" / "results"
    with pytest.raises(ExperimentError, match=r"search.results_dir .* cannot be written to"):
        ExperimentStore.create(config_of(tmp_path, results_dir=place))
