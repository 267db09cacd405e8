"""The W&B guide is true: its commands parse, its variables are read, its Python runs."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
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
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str, text: str = GUIDE) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, list[str]]]:
    """Return the page and the words of every command in the documentation."""
    found: dict[tuple[str, ...], str] = {}
    for page in PAGES:
        text = "".join(blocks("bash", page.read_text(encoding="utf-8"))).replace("\\\n", " ")
        for line in text.splitlines():
            if words := shlex.split(line, comments=True):
                found.setdefault(tuple(words), page.name)
    return [(page, list(words)) for words, page in found.items()]


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


@pytest.mark.parametrize(("page", "words"), commands())
def test_every_command_is_one(
    page: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, *rest = words
    monkeypatch.chdir(tmp_path)
    match program:
        case "export":
            variable, _, value = rest[0].partition("=")
            known = environment_layer({variable: value}).values
            settings = hasattr(wandb.Settings(), variable.removeprefix("WANDB_").lower())
            assert known or settings or variable.startswith(("LORATUNE_", "HF_", "RAY_", "AWS_"))
        case "python" if "-c" in rest:
            compile(rest[rest.index("-c") + 1], page, "exec")
        case "python" | ".venv/bin/python":
            script = f"{rest[1].replace('.', '/')}.py" if rest[0] == "-m" else rest[0]
            assert (ROOT / script).is_file(), script
            if script == "train_lora.py":
                parse(typer.main.get_command(app), ["train", *rest[1:]])
        case "loratune" | ".venv/bin/loratune":
            parse(typer.main.get_command(app), rest)
        case "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert all(word in targets for word in rest if "=" not in word), rest
        case "pip":
            extras = re.findall(r"loratune\[([\w,]+)\]", " ".join(rest))
            declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
                "optional-dependencies"
            ]
            assert all(extra in declared for group in extras for extra in group.split(","))
        case "git" | "cd":
            pass
        case "wandb" if rest[0] == "leet":
            # A program of its own, which lists its options only itself.
            listed = subprocess.run(
                [sys.executable, "-m", "wandb", *rest[:2], "--help"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            assert all(word in listed for word in rest if word.startswith("--"))
        case _:
            assert program == "wandb", program
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        assert (page.parent / path).exists() if path else anchor in headings, target


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "wandb.md" and "```python" in page.read_text()], ids=str
)
def test_the_other_pages_python_runs(page: Path, tmp_path: Path) -> None:
    program = "\n".join(blocks("python", page.read_text(encoding="utf-8")))
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
