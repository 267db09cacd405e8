"""A dry run shows what the search would do, and starts nothing."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.commands import flags
from tune.cli import main
from tune.config import Config
from tune.dry_run import DryRun, dry_run
from tune.dry_run import report as shown


@pytest.fixture(scope="module")
def found(micro_base: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> DryRun:
    folder = tmp_path_factory.mktemp("results")
    words = flags(micro_base, corpus, folder, "planned")
    keys = [word for word in words[words.index("--model.name") :]]
    own = ["--search.seed", "3", "--search.num_trials", "6", "--engine.slots_per_device", "2"]
    run = dry_run(Config.assemble(None, [*keys, *own, "--cluster.price_per_hour", "2"]), print)
    assert list(folder.iterdir()) == []
    return run


def test_the_first_trial_is_the_published_point_and_the_others_are_drawn(found: DryRun) -> None:
    assert len(found.first) == found.slots == 2
    # 5e-4 * (2000 / 32) ** 0.781 for a Llama with a hidden size of 32.
    expected = {"training.learning_rate": pytest.approx(0.0126, rel=0.01), "lora.r": 16, "lora.alpha": 32}
    assert found.first[0] == expected
    assert found.first[1] != found.first[0]


def test_the_estimate_is_the_measured_time_of_all_trials(found: DryRun) -> None:
    assert found.timing.step_s > 0
    assert found.timing.evaluation_s > 0
    assert (found.timing.max_steps, found.evaluations, found.at_once) == (8, 4, 2)
    timed = replace(found, timing=replace(found.timing, step_s=1.0, evaluation_s=3.0), devices=1)
    assert timed.trial_s == 8 * 1 + 4 * 3
    assert timed.longest_s == 3 * 20
    assert timed.price == pytest.approx(2 * 60 / 3600)


def test_what_is_shown_names_space_trials_and_cost(found: DryRun) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(shown(found))
    text = console.export_text()
    assert "published" in text
    assert "6 trials, 2 at once" in text
    assert "at cluster.price_per_hour" in text
    assert "asha stops weak trials early" in text


def test_a_mistake_is_reported_as_by_the_search_itself(
    micro_base: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [*flags(micro_base, corpus, tmp_path / "results", "planned"), "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["loratune", *words, "--search.enqueue", "[{lora.r: 3}]"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "search.enqueue[0]: 'lora.r' = 3 is not on its axis" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
