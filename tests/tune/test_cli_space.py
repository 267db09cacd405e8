"""`loratune space` shows, checks and draws what a search would."""

import json
import sys
from pathlib import Path

import pytest

from search_spaces import Space
from search_spaces.published import published_rate
from search_spaces.reading import preset_text, presets
from trainable.config import TrialConfig
from trainable.errors import SpaceError
from tune.cli import app, main


def loratune(*words: str) -> None:
    app(list(words), prog_name="loratune", standalone_mode=False)


def test_the_presets_are_listed_with_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    loratune("space", "show")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == presets()
    assert all(len(line) < 80 and line.endswith(".") for line in lines)


@pytest.mark.parametrize("name", presets())
def test_a_preset_is_shown_with_its_reasons(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    loratune("space", "show", name)
    shown = capsys.readouterr().out
    comments = [line[2:] for line in preset_text(name).splitlines() if line.startswith("# ")]
    assert len(comments) > 3
    assert all(comment in shown for comment in comments)
    assert "training.learning_rate" in shown
    assert "axes are searched" in shown


def test_samples_are_points_of_the_space_and_the_same_for_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    loratune("space", "sample", "lora_full", "-n", "5", "--seed", "4", "--json")
    first = capsys.readouterr().out
    space = Space.load("lora_full", TrialConfig())
    for point in json.loads(first):
        space.apply(TrialConfig(), point)
        assert ("training.warmup_ratio" in point) == (point["training.lr_scheduler"] != "constant")
    loratune("space", "sample", "lora_full", "-n", "5", "--seed", "4", "--json")
    assert capsys.readouterr().out == first
    loratune("space", "sample", "lora_full", "-n", "5", "--seed", "5", "--json")
    assert capsys.readouterr().out != first


def test_a_sound_space_is_called_so_and_a_wrong_one_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("lora.r: {type: choice, values: [4, 8]}\nlora.alpha: '2 * lora.r'\n")
    loratune("space", "validate", str(file))
    shown = " ".join(capsys.readouterr().out.split())
    assert "is sound: 1 of 2 axes are searched, 2 points" in shown
    file.write_text("lora.r: {type: choice, values: [4, 0]}\n")
    monkeypatch.setattr(sys, "argv", ["loratune", "space", "validate", str(file)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "lora.r = 0 is not allowed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("architecture", "hidden_size", "rate"),
    [
        # 5e-5 * 10 * (2000 / 4096) ** 0.781, and with 0.0775 at 896.
        ("LlamaForCausalLM", 4096, 2.86e-4),
        ("Qwen2ForCausalLM", 896, 5.32e-4),
        ("MistralForCausalLM", 4096, 5e-4),
        ("LlamaForCausalLM", None, 5e-4),
    ],
)
def test_the_published_rate_is_the_cookbooks(architecture: str, hidden_size: int | None, rate: float) -> None:
    assert published_rate(architecture, hidden_size) == rate


def test_the_first_point_stays_in_the_space() -> None:
    space = Space.load("lora", TrialConfig())
    assert space.first_point("LlamaForCausalLM", 16) == {"training.learning_rate": 3e-3, "lora.r": 32}


@pytest.mark.parametrize(
    ("axis", "told"),
    [
        ({"type": "power_of_two", "low": 4, "high": 8, "first": 16}, "'lora.r' = 16 is not on its axis"),
        (
            {"type": "choice", "values": [4, 8], "first": "published"},
            "for a range of training.learning_rate only",
        ),
    ],
)
def test_a_first_value_that_is_not_on_its_axis_is_refused(axis: dict[str, object], told: str) -> None:
    with pytest.raises(SpaceError, match=told):
        Space.load({"lora.r": axis}, TrialConfig())
