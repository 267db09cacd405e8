"""Frames, curves, figures and reports from Python."""

from pathlib import Path

import pytest

import loratune as lt
from tests.support.many_trials import many_trials


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many_trials(tmp_path_factory.mktemp("results") / "mine", 20).folder


def test_conditions_and_frames(folder: Path) -> None:
    experiment = lt.load(folder)
    some = experiment.leaderboard.where("state == completed and lora.r >= 8")
    assert 0 < len(some) < 20
    assert all(trial.params["lora.r"] >= 8 for trial in some)
    table = some.to_arrow()
    assert table.num_rows == len(some)
    assert table["value"].to_pylist() == sorted(table["value"].to_pylist())
    with pytest.raises(lt.UserError, match=r"Did you mean 'lora\.r'"):
        experiment.trials.where("lora.rr > 1")


def test_curves_in_one_table(folder: Path) -> None:
    experiment = lt.load(folder)
    curves = experiment.curves()
    assert curves.column_names == ["number", "step", "value"]
    assert curves.num_rows == sum(len(trial.records) for trial in experiment.trials)
    assert curves["value"].null_count == 2
    with pytest.raises(lt.UserError, match="Did you mean 'eval/loss'"):
        experiment.curves("eval/los")


@pytest.mark.parametrize(
    "kind", ["history", "curves", "importance", "parallel", "contour", "slice", "timeline"]
)
def test_figures(folder: Path, kind: str) -> None:
    pytest.importorskip("plotly", reason="needs the extra plots")
    assert len(lt.load(folder).figure(kind).data) > 0


def test_a_figure_that_cannot_be_drawn_is_one_error(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="needs the extra plots")
    with pytest.raises(lt.UserError, match="Did you mean 'history'"):
        lt.load(folder).figure("histroy")
    empty = many_trials(tmp_path / "none", 0, num_trials=1).folder
    with pytest.raises(lt.UserError, match="cannot be drawn yet"):
        lt.load(empty).figure("importance")


@pytest.mark.parametrize(
    ("name", "begin"), [("a.html", "<!doctype html>"), ("a.md", "# mine"), ("a.json", "{")]
)
def test_a_report_is_written_as_its_name_says(folder: Path, tmp_path: Path, name: str, begin: str) -> None:
    assert lt.report(folder, tmp_path / name).read_text().startswith(begin)
