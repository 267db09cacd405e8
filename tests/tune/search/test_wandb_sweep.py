"""The guide's sweep both ways: as a search, and as single runs such as an agent starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.commands import flags, loratune, trials_of
from tests.support.wandb_records import ENTITY
from tests.support.wandb_server import WandbServer
from trainable.errors import SpaceError
from tune.config import Config
from tune.search.wandb_sweep import sweep_layer

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "config" / "sweep_config.yaml"


def test_a_sweep_lies_between_the_file_and_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    flags = ["--search.num_trials", "3", "--search.scheduler", "median"]
    config = Config.assemble(None, flags, below=[sweep_layer(GUIDE, Config())])
    assert (config.search.sampler, config.search.metric, config.search.mode) == (
        "tpe",
        "eval/overall_score",
        "max",
    )
    assert (config.search.scheduler, config.search.num_trials) == ("median", 3)
    assert config.evaluation.text_metrics == "always"
    assert set(config.search.space) == {"learning_rate", "lora.r", "lora.alpha"}


def test_hyperband_counts_evaluations(tmp_path: Path) -> None:
    content = yaml.safe_load(GUIDE.read_text()) | {"early_terminate": {"type": "hyperband", "min_iter": 2}}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(content))
    base = Config.model_validate({"training": {"max_steps": 100}, "evaluation": {"eval_every_steps": 10}})
    layer = sweep_layer(path, base).values
    assert (layer["search.scheduler"], layer["search.grace_ratio"]) == ("asha", 0.2)
    assert layer["search.reduction_factor"] == 3
    with pytest.raises(SpaceError, match=r"needs the number of steps: give --training.max_steps"):
        sweep_layer(path, Config())


@pytest.mark.ray
def test_a_grid_sweep_is_searched_whole_each_combination_once(
    micro_base: Path, corpus: Path, tmp_path: Path
) -> None:
    path = tmp_path / "sweep.yaml"
    told = {
        "program": "train_lora.py",
        "method": "grid",
        "metric": {"name": "eval/loss", "goal": "minimize"},
        "parameters": {"lora.r": {"values": [4, 8]}, "learning_rate": {"values": [0.001, 0.002]}},
    }
    path.write_text(yaml.safe_dump(told))
    words = [word for word in flags(micro_base, corpus, tmp_path, "swept")]
    at = words.index("--search.space")
    del words[at : at + 2]
    done = loratune(
        *words, "--trials", "50", "--sweep", str(path), "--wandb.mode", "disabled", folder=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    trials = trials_of(tmp_path, "swept")
    tried = [(trial["params"]["lora.r"], trial["params"]["training.learning_rate"]) for trial in trials]
    assert sorted(tried) == [(4, 0.001), (4, 0.002), (8, 0.001), (8, 0.002)]
    assert {trial["state"] for trial in trials} == {"completed"}
    stored = yaml.safe_load((tmp_path / "swept" / "config.yaml").read_text())["search"]
    assert stored["space"]["lora.r"] == {"type": "choice", "values": [4, 8]}


def test_the_script_runs_as_an_agent_starts_it(micro_base: Path, corpus: Path, tmp_path: Path) -> None:
    words = [
        *("--learning_rate=0.002", "--lora.r=4", "--lora.alpha=8", f"--model.name={micro_base}"),
        *(f"--train_data={corpus / 'train.json'}", f"--val_data={corpus / 'val.json'}"),
        *(f"--test_data={corpus / 'test.json'}", "--training.max_steps=4", "--evaluation.eval_every_steps=2"),
        *("--evaluation.text_rows=2", "--evaluation.max_new_tokens=8", "--wandb.save_code=false"),
    ]
    environment = os.environ | {"WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": "run7", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "train_lora.py"), *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "W&B initialized: lora-r4-a8-lr2e-3 (run7)" in done.stdout
    told = json.loads((tmp_path / "models" / "lora" / "run7" / "metrics.json").read_text())
    assert told["test"]["test/loss"] > 0


def test_wandb_sweep_and_agent_drive_the_script(
    wandb_server: WandbServer, micro_base: Path, corpus: Path, tmp_path: Path
) -> None:
    content = yaml.safe_load(GUIDE.read_text())
    given = {
        "model.name": str(micro_base),
        "train_data": str(corpus / "train.json"),
        "val_data": str(corpus / "val.json"),
        "test_data": str(corpus / "test.json"),
        "training.max_steps": 2,
        "evaluation.text_rows": 2,
        "evaluation.max_new_tokens": 8,
        "wandb.save_code": False,
    }
    content["program"] = str(ROOT / "train_lora.py")
    content["parameters"] |= {key: {"value": value} for key, value in given.items()}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}

    def wandb(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "wandb", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "wandb agent " in wandb("sweep", "--project", "weather", "sweep.yaml")
    (sweep,) = wandb_server.store.sweeps.made.values()
    proposed = [{"learning_rate": 2e-5 * (number + 1), "lora.r": 16, "lora.alpha": 32} for number in range(2)]
    sweep.proposals = [values | given for values in proposed]
    wandb("agent", f"{ENTITY}/weather/{sweep.sweep_id}")
    assert set(wandb_server.runs) == {"sweep0-0", "sweep0-1"}
    rates = []
    for run in wandb_server.runs.values():
        assert run.exit_code == 0
        assert run.summary["eval/overall_score"] >= 0
        assert (tmp_path / "models" / "lora" / run.run_id / "adapter").is_dir()
        rates.append(run.config["training"]["learning_rate"])
    assert sorted(rates) == [2e-5, 4e-5]
