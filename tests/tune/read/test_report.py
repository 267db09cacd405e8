"""The report: its words against the numbers, and its page in a real browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.many_trials import many_trials
from trainable.objective import Objective
from tune.read.report.gather import gather
from tune.read.report.write import as_html, as_json, as_markdown
from tune.store.reader import read

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return gather(read(many_trials(tmp_path_factory.mktemp("results") / "storm", 90)), now=1_001_000.0)


def test_it_is_read_off_the_experiment(report: dict[str, Any]) -> None:
    assert report["counts"] == {"completed": 64, "pruned": 16, "diverged": 10}
    values = [trial["value"] for trial in report["trials"] if trial["value"] is not None]
    assert values == sorted(values)
    best = report["best"]
    assert best["number"] == report["trials"][0]["number"]
    assert f"Trial {best['number']} is the best: eval/loss {best['value']:.4f}" in report["verdict"][0]
    assert [one["reason"] for one in report["failures"]] == ["the loss is not finite at step 100"]
    assert len(report["failures"][0]["trials"]) == 10
    # Four trials share one device: 16 s of 20 s lie between records, of 100 steps or fewer.
    between = sum(max(trial["steps"] - 20, 0) / 5 for trial in report["trials"])
    assert report["cost"]["device_hours"] == pytest.approx(between / 4 / 3600)
    assert report["cost"]["tokens"] == pytest.approx(between * 12_000)


def test_the_three_formats(report: dict[str, Any]) -> None:
    assert json.loads(as_json(report))["experiment"] == "storm"
    markdown = as_markdown(report)
    assert "## Leaderboard" in markdown
    assert f"| 1 | {report['best']['number']} | completed |" in markdown
    page = as_html(report)
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)|url\(|@import|https?://""", page)
    assert len(page) < 5_000_000


def test_text_from_outside_is_never_markup(report: dict[str, Any]) -> None:
    evil = "<script>alert(1)</script>\"'&"
    trials = [dict(report["trials"][0], params={"lora.note": evil, "lora.r": 2}, reason=evil, device=evil)]
    changed = report | {
        "experiment": evil,
        "trials": [*trials, dict(report["trials"][1], params={"lora.note": "x", "lora.r": 4})],
        "predictions": [{"input": evil, "reference": evil, "prediction": evil}],
        "objective": {"metric": evil, "mode": "min"},
    }
    assert "<script>alert" not in as_html(changed)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_an_experiment_without_scores(report: dict[str, Any], mode: str) -> None:
    nothing = [trial | {"value": None, "curve": [], "started": None} for trial in report["trials"][:2]]
    empty = report | {
        "trials": nothing,
        "best": None,
        "objective": {"metric": Objective("eval/loss", "min").metric, "mode": mode},
    }
    assert "Nothing to draw" in as_html(empty)


_PROBE = """<script>
const cells = (column) => [...document.querySelectorAll("#board tbody tr")]
  .filter((row) => !row.hidden).map((row) => row.cells[column].textContent);
const heads = [...document.querySelectorAll("#board thead button")];
const seen = {};
heads[1].click();
seen.byNumber = cells(1).slice(0, 3);
heads[1].click();
seen.byNumberDown = cells(1).slice(0, 3);
seen.sort = heads[1].parentElement.getAttribute("aria-sort");
heads[0].click();
const state = document.getElementById("state");
state.value = "pruned";
state.dispatchEvent(new Event("change"));
seen.pruned = [cells(2).length, new Set(cells(2)).size, document.getElementById("shown").textContent];
state.value = "";
state.dispatchEvent(new Event("change"));
seen.requests = performance.getEntriesByType("resource").map((one) => one.name);
seen.width = document.documentElement.scrollWidth - document.documentElement.clientWidth;
seen.headings = [...document.querySelectorAll("section")].every((one) => one.getAttribute("aria-labelledby"));
seen.images = [...document.querySelectorAll("svg")].every((one) => one.getAttribute("aria-label"));
seen.cut = [...document.querySelectorAll("svg text")].filter((one) => {
  const box = one.getBBox();
  return box.x < 0 || box.x + box.width > one.ownerSVGElement.viewBox.baseVal.width;
}).map((one) => one.textContent);
seen.keyboard = [...document.querySelectorAll("button, input, select, .scroll, .input, pre")]
  .every((one) => one.tabIndex === 0);
document.title = JSON.stringify(seen);
</script>"""


@needs_chromium
@pytest.mark.parametrize("width", [420, 1200])
def test_the_page_works_in_a_browser(report: dict[str, Any], tmp_path: Path, width: int) -> None:
    page = tmp_path / "report.html"
    page.write_text(as_html(report).replace("</body>", f"{_PROBE}</body>"), encoding="utf-8")
    done = subprocess.run(
        [
            str(CHROMIUM),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--enable-logging=stderr",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},1000",
            "--virtual-time-budget=2000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    seen = json.loads(title.group(1).replace("&quot;", '"'))
    assert seen["byNumber"] == ["0", "1", "2"]
    assert seen["byNumberDown"] == ["89", "88", "87"]
    assert seen["sort"] == "descending"
    assert seen["pruned"] == [16, 1, "16 trials"]
    assert seen["requests"] == []
    assert seen["headings"] is True
    assert seen["images"] is True
    assert seen["width"] <= 0
    assert seen["cut"] == []
    assert seen["keyboard"] is True


def test_trials_of_a_killed_search_are_pending_not_running(tmp_path: Path) -> None:
    store = many_trials(tmp_path / "killed", 9, running=3)
    assert gather(read(store), 0.0)["counts"] == {"pending": 3, "completed": 5, "pruned": 1}
    with store.locked():
        assert gather(read(store), 0.0)["counts"] == {"running": 3, "completed": 5, "pruned": 1}
