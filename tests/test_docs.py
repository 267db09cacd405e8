"""The W&B guide is true: its commands parse, its variables are read, its Python runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import wandb
import yaml
from wandb.cli.cli import cli as wandb_cli

from tests.support.offline_runs import offline_runs
from trainable.config import environment_layer, file_layers
from trainable.config.layers import resolve_key
from tune.cli import app
from tune.config import Config

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "wandb.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    text = "".join(blocks("bash")).replace("\\\n", " ")
    lines = (shlex.split(line, comments=True) for line in text.splitlines())
    return [words for words in lines if words]


def parse(command: Any, words: list[str]) -> None:
    """Parse as the program itself would, without running it."""
    while commands := getattr(command, "commands", None):
        assert words[0] in commands, f"no such command: {words[0]}"
        command, words = commands[words[0]], words[1:]
    parsed = command.make_context(command.name, _expanded(words))
    # `loratune` takes keys of the configuration as flags of their own.
    for flag in [word for word in parsed.args if word.startswith("--")]:
        resolve_key(flag[2:].partition("=")[0], Config, "the guide")


def _expanded(words: list[str]) -> list[str]:
    """Make the files that patterns stand for, and name these, as a shell does."""
    for word in [word for word in words if "*" in word]:
        Path(word.replace("*", "x")).mkdir(parents=True, exist_ok=True)
    return [word.replace("*", "x") for word in words]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_is_one(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *rest = words
    monkeypatch.chdir(tmp_path)
    if program == "export":
        variable, _, value = rest[0].partition("=")
        known = environment_layer({variable: value}).values
        assert known or hasattr(wandb.Settings(), variable.removeprefix("WANDB_").lower())
    elif program == "python":
        compile(rest[rest.index("-c") + 1], "the guide", "exec")
    elif program == "loratune":
        parse(typer.main.get_command(app), rest)
    elif rest[0] == "leet":
        # A program of its own, which tells its options only itself.
        told = subprocess.run(
            [sys.executable, "-m", "wandb", *rest[:2], "--help"], capture_output=True, text=True, check=True
        ).stdout
        assert all(word in told for word in rest if word.startswith("--"))
    else:
        assert program == "wandb"
        parse(wandb_cli, rest)


def test_what_is_no_command_is_found(tmp_path: Path) -> None:
    for words in (["runs", "x"], ["sync", "--no-such"], ["artifact", "cache", "cleanup"]):
        with pytest.raises((AssertionError, click.UsageError), match=r"(?i)no such|missing"):
            parse(wandb_cli, words)


def test_every_yaml_block_is_a_configuration(tmp_path: Path) -> None:
    assert len(blocks("yaml")) == 3
    for number, text in enumerate(blocks("yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        assert file_layers(file, Config)[0].values


def test_every_key_of_the_section_is_told() -> None:
    section = yaml.safe_load((ROOT / "config" / "base_config.yaml").read_text(encoding="utf-8"))["wandb"]
    table = GUIDE.partition("## Configuration")[2].partition("## Training")[0]
    told = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE)))
    assert sorted(told) == sorted(section)


def test_every_link_leads_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in GUIDE.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", GUIDE):
        path, _, anchor = target.partition("#")
        assert (ROOT / "docs" / path).exists() if path else anchor in headings, target


def test_the_python_runs(tmp_path: Path) -> None:
    for folder in ("config", "models/checkpoint", "models/checkpoint-1000"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "weights.txt").write_text("w")
    (tmp_path / "config" / "base_config.yaml").write_text((ROOT / "config" / "base_config.yaml").read_text())
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks("python"))],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
        | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "could not" not in done.stdout, done.stdout
    runs = {run.told["name"]: run for run in offline_runs(tmp_path)}
    assert set(runs) == {"my-experiment", "experiment-1", "visualisations", "exp-1", "exp-2", "exp-3"}
    assert all(run.told["exit_code"] == 0 for run in runs.values())
    assert runs["exp-2"].run["run_group"] == "ablation-studies"
    assert "schulman-2025" in runs["exp-2"].told["tags"]
    assert runs["exp-3"].told["notes"].startswith("r=32")
    assert [one["name"] for one in runs["my-experiment"].artifacts_of("model")] == ["checkpoint-1000"]
    assert sorted(runs["exp-3"].artifacts_of("model")[0]["aliases"]) == ["best", "latest", "v1.0"]
