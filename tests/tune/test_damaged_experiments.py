"""What a disk, a crash or an editor can do to an experiment's files: a message, never a traceback."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import run_here
from tests.support.many_trials import many_trials
from trainable.files import write_manifest

STUDY, CONFIG, LOG = "study.journal", "config.yaml", "00000000/results.jsonl"
COMMANDS = (
    ("status", "hurt"),
    ("trials", "hurt"),
    ("show", "hurt", "0"),
    ("compare", "hurt", "0", "1"),
    ("report", "hurt"),
    ("verify", "hurt"),
    ("clean", "hurt", "--dry-run"),
    ("ls",),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many_trials(tmp_path_factory.mktemp("results") / "hurt", 5).folder


@pytest.fixture
def hurt(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(sound, tmp_path / "results" / "hurt")


def cut(name: str, share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return damage


def written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def folder_for(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def line_changed(folder: Path) -> None:
    lines = (folder / STUDY).read_bytes().splitlines(keepends=True)
    lines[len(lines) // 2] = b"\x00\xff\n"
    (folder / STUDY).write_bytes(b"".join(lines))


def foreign(folder: Path) -> None:
    content = (folder / STUDY).read_text()
    (folder / STUDY).write_text(content.replace('"study_name":"hurt"', '"study_name":"other"'))


def changed_records(folder: Path, changes: Sequence[Mapping[str, Any]]) -> None:
    """Change every record of each trial in the trial's own way."""
    for log, change in zip(sorted(folder.glob("*/results.jsonl")), changes, strict=True):
        rows = [json.loads(line) | change for line in log.read_text().splitlines()]
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))


def changed_attributes(folder: Path, changes: Sequence[Mapping[str, Any]]) -> None:
    """Change the study's attributes of each trial in the trial's own way."""
    operations = [json.loads(line) for line in (folder / STUDY).read_text().splitlines()]
    trials = [one["user_attrs"] for one in operations if "ray_trial_id" in one.get("user_attrs", {})]
    for attributes, change in zip(trials, changes, strict=True):
        attributes |= change
    (folder / STUDY).write_text("".join(json.dumps(one) + "\n" for one in operations))


def answers(
    commands: Iterable[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> dict[str, tuple[int, str]]:
    """Return each command's exit code and what it says, an error in one line."""
    said = {}
    for words in commands:
        code = run_here(*words)
        shown = capsys.readouterr()
        assert code in (0, 2, 4), (words, shown)
        assert len(shown.err.splitlines()) == (code == 2), (words, shown.err)
        said[words[0]] = code, shown.out + shown.err
    return said


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (without(STUDY), "has 5 trials' folders, but its study is missing"),
        (written(STUDY, b""), "its study is missing"),
        (written(STUDY, bytes(range(256))), "study.journal' is corrupt"),
        (written(STUDY, b'[1]\n{"a": 1}\n'), "study.journal' is corrupt"),
        (line_changed, "study.journal' is corrupt"),
        (foreign, "its study is missing"),
        (folder_for(STUDY), "Is a directory"),
        (without(CONFIG), "experiment 'hurt' does not exist"),
        (written(CONFIG, b"search:\n  num_trials: 3\n  k"), "is not YAML"),
        (written(CONFIG, b"\xff\xfe: ["), "cannot be read"),
        (folder_for(LOG), "Is a directory"),
    ],
)
def test_what_cannot_be_read_is_named(
    hurt: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], why: str
) -> None:
    damage(hurt)
    said = answers([("status", "hurt"), ("ls",)], capsys)
    assert said["ls"][0] == 0
    assert said["status"][0] == 2
    assert why in said["status"][1]
    if "does not exist" not in why:
        # A long path may be broken anywhere.
        assert "".join(why.split()) in "".join(said["ls"][1].split())


def test_every_command_refuses_a_corrupt_study(hurt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line_changed(hurt)
    said = answers(COMMANDS, capsys)
    assert said.pop("ls")[0] == 0
    for code, text in said.values():
        assert code == 2
        assert "study.journal' is corrupt" in text


def test_a_record_of_the_wrong_type_counts_as_missing(hurt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed_records(
        hurt, [{"time": "x"}, {"step": "last"}, {"trial_state": "up"}, {"eval/loss": 1e999}, {"device": 3}]
    )
    said = answers(COMMANDS, capsys)
    assert "no score yet" in said["status"][1]
    assert "the trial has not reported yet" in said["show"][1]
    assert "trial 0: log and study differ at step 20" in said["verify"][1]


def test_an_attribute_of_the_wrong_type_counts_as_missing(
    hurt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed_attributes(
        hurt,
        [
            {"params": "x", "reason": [1]},
            {"trial_state": "up"},
            {"started": "x"},
            {"ended": [1]},
            {"follows": "x"},
        ],
    )
    said = answers(COMMANDS, capsys)
    assert "5/5 trials" in said["status"][1]
    assert "learning_rate" in said["show"][1]


def test_the_records_before_a_truncated_one_still_count(
    hurt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(LOG, 0.9)(hurt)
    run_here("show", "hurt", "0")
    shown = capsys.readouterr().out
    assert "80 of 100" in shown
    assert "predictions" not in shown.partition("Log")[0]


@pytest.mark.parametrize("content", [b"no json\n", b'{"prompt": 1, "prediction": null}\n', b"\xff\n"])
def test_unreadable_predictions_are_left_out(
    hurt: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    assert "A breezy day." in (run_here("show", "hurt", "0"), capsys.readouterr().out)[1]
    (hurt / "00000000" / "predictions.jsonl").write_bytes(content)
    assert run_here("show", "hurt", "0") == 0
    assert "Predictions" not in capsys.readouterr().out


def test_a_missing_trial_folder_leaves_the_others(hurt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(hurt / "00000000")
    said = answers(COMMANDS, capsys)
    assert "Leaderboard" in said["trials"][1]
    assert "trial 0: log and study differ at step 20" in said["verify"][1]


@pytest.mark.parametrize("content", [b"[1]", b'{"step": null}'])
def test_a_checkpoint_without_a_readable_state_is_left_out(
    hurt: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    checkpoint = hurt / "00000000" / "checkpoint_000000"
    checkpoint.mkdir()
    (checkpoint / "state.json").write_bytes(content)
    write_manifest(checkpoint)
    said = answers(COMMANDS, capsys)
    assert "checkpoint_000000" in said["show"][1]
    assert "00000000/checkpoint_000000" in said["verify"][1]


def test_garbage_in_the_best_adapters_metrics_is_left_out(
    hurt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (hurt / "best").mkdir()
    (hurt / "best" / "metrics.json").write_text("[1]")
    said = answers(COMMANDS, capsys)
    assert said["report"][0] == 0
    assert "best/metrics.json: it is corrupt" in said["verify"][1]
