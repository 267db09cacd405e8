"""What a report says of a search, against searches whose truth is known."""

import itertools
import json
import math
import random
import statistics
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from tests.support.many_trials import many_trials
from tune.config import Config
from tune.read.format import score
from tune.read.report.completed import Done
from tune.read.report.edges import wider_ranges
from tune.read.report.gather import gather
from tune.read.report.learnt import _completed, _mean_best, expected_gain, learn
from tune.store.experiment import ExperimentStore
from tune.store.reader import ExperimentData, read


def rate_alone(rate: float, exponent: int, ratio: float) -> float:
    return 0.8 + 0.3 * math.log10(rate / 3e-3) ** 2


def said(data: ExperimentData, words: str) -> list[str]:
    return [sentence for sentence in learn(data).sentences if words in sentence]


def test_what_was_learnt_fits_how_the_losses_were_made(tmp_path: Path) -> None:
    learnt = learn(read(many_trials(tmp_path / "storm", 90)))
    rate = next(one for one in learnt.regions if one.name == "training.learning_rate")
    assert 1e-3 < rate.low <= rate.median <= rate.high < 1e-2
    assert learnt.wider == {"lora.r": "the range ends at 64; try up to 128"}
    # By chance the rank leads here, among the nine best trials.
    assert next(iter(learnt.importance)) == "lora.r"
    assert "random redraws of the trials another parameter led" in str(learnt.caution)
    assert any("lora.r seems to matter most" in sentence for sentence in learnt.sentences)


def test_with_many_trials_the_parameter_that_matters_is_named(tmp_path: Path) -> None:
    learnt = learn(read(many_trials(tmp_path / "many", 250)))
    assert next(iter(learnt.importance)) == "training.learning_rate"
    assert learnt.caution is None
    assert any("training.learning_rate mattered most" in sentence for sentence in learnt.sentences)


def test_few_trials_get_caution_instead_of_importance(tmp_path: Path) -> None:
    learnt = learn(read(many_trials(tmp_path / "few", 5)))
    assert learnt.importance == {}
    assert learnt.caution == "4 completed trials are too few to rank the parameters."
    assert any("more trials are likely" in sentence for sentence in learnt.sentences)
    some = learn(read(many_trials(tmp_path / "some", 16)))
    assert some.importance
    assert "random redraws" in str(some.caution) or "take it as a hint" in str(some.caution)


def test_the_best_region_holds_the_optimum_and_says_what_is_still_open(tmp_path: Path) -> None:
    data = read(many_trials(tmp_path / "one", 80, loss=rate_alone))
    rate, rank, ratio = learn(data).regions
    assert rate.narrowed
    assert rate.low < 3e-3 < rate.high
    assert rate.share < 0.3
    assert not rank.narrowed
    assert not ratio.narrowed
    (agreed,) = said(data, "agree on")
    assert f"agree on training.learning_rate: {rate.low * 1e3:.1f}e-3 to" in agreed
    assert said(data, "lora.r, lora.alpha/lora.r: the best trials are spread as widely")


@pytest.mark.parametrize(
    ("better_with", "hint"),
    [(-1, "the range ends at 0.1; try up to 0.4"), (1, "the range begins at 1e-4; try from 2.5e-5")],
)
def test_an_optimum_beyond_the_range_is_named_on_its_side(
    tmp_path: Path, better_with: int, hint: str
) -> None:
    data = read(many_trials(tmp_path / "edge", 80, loss=lambda rate, *_: better_with * math.log10(rate)))
    assert learn(data).wider["training.learning_rate"] == hint


def test_a_parameter_that_does_not_matter_is_seldom_at_an_edge(tmp_path: Path) -> None:
    hints = []
    for seed in range(12):
        data = read(many_trials(tmp_path / f"seed-{seed}", 14, loss=rate_alone, seed=seed))
        done = _completed(data)
        hints.append(wider_ranges(done, done[:3]))
    assert sum("lora.r" in hint for hint in hints) <= 1
    assert not any("training.learning_rate" in hint for hint in hints)


def sampled(seed: int, best: float, count: int = 24) -> list[Done]:
    """Return trials that TPE has drawn, best first: only the rate matters, and is best at 10 ** `best`."""
    noise = random.Random(seed)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True))
    done = []
    for number in range(count):
        trial = study.ask()
        rate = trial.suggest_float("rate", 1e-5, 1e-2, log=True)
        trial.suggest_int("log2(r)", 2, 6)
        trial.suggest_float("dropout", 0, 0.2)
        loss = (math.log10(rate) - best) ** 2 / 10 + noise.gauss(0, 0.02)
        study.tell(trial, loss)
        done.append(Done(study.trials[-1], number, float(number), loss, loss))
    return sorted(done, key=lambda one: one.judged)


def test_a_sampler_that_repeats_itself_does_not_make_an_edge() -> None:
    found = {
        best: [wider_ranges(done, done[:3]) for done in (sampled(seed, best) for seed in range(20))]
        for best in (-3.5, -1.5)
    }
    # By chance one axis in twenty would, at each of two edges of two axes, if the best trial lay there.
    for hints in found.values():
        assert sum("r" in hint for hint in hints) <= 3
        assert sum("dropout" in hint for hint in hints) <= 3
    assert not any("rate" in hint for hint in found[-3.5])
    assert sum("rate" in hint for hint in found[-1.5]) >= 8


def test_the_mean_best_is_the_mean_over_all_orders() -> None:
    costs = [0.1, 0.4, 0.5, 0.9, 1.0, 1.3]
    orders = list(itertools.permutations(costs))
    assert _mean_best(costs, 4) == pytest.approx(statistics.fmean(min(order[:4]) for order in orders))
    assert 0 < expected_gain([place / 3000 for place in range(3000)]) < 1e-3


@pytest.mark.parametrize("power", [1, 2])
def test_the_expected_gain_is_what_half_as_many_trials_again_bring_on_average(power: int) -> None:
    chance = random.Random(0)
    estimated, gained = [], []
    for _ in range(2000):
        drawn = [chance.random() ** power for _ in range(27)]
        estimated.append(expected_gain(sorted(drawn[:18])))
        gained.append(min(drawn[:18]) - min(drawn))
    assert statistics.fmean(estimated) == pytest.approx(statistics.fmean(gained), rel=0.3)


def test_a_search_that_has_arrived_should_not_go_on(tmp_path: Path) -> None:
    store = many_trials(tmp_path / "worse", 40, loss=lambda *_: 0.8)
    for log in sorted(store.folder.glob("*/results.jsonl"))[10:]:
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        worse = [row | {"eval/loss": row["eval/loss"] and row["eval/loss"] + 0.5} for row in rows]
        log.write_text("".join(json.dumps(row) + "\n" for row in worse))
    (sentence,) = said(read(store), "brought nothing better")
    assert sentence.endswith("more of the same will hardly pay.")


def test_trials_beyond_a_bound_are_not_among_the_best(tmp_path: Path) -> None:
    store = many_trials(
        tmp_path / "bound",
        60,
        loss=lambda rate, exponent, ratio: 1 - exponent / 10,
        constraints=["train/adapter_parameters <= 8000"],
    )
    ranks = {trial.trial_id: trial.params["lora.r"] for trial in read(store).trials}
    for log in store.folder.glob("*/results.jsonl"):
        size = {"train/adapter_parameters": 1000 * ranks[log.parent.name]}
        rows = [json.loads(line) | size for line in log.read_text().splitlines()]
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = read(store)
    done = [trial for trial in data.trials if trial.state.value == "completed"]
    within = sorted(trial.best_metrics["eval/loss"] for trial in done if trial.params["lora.r"] <= 8)
    learnt = learn(data)
    assert f"leads the second by {score(within[1] - within[0])} in eval/loss" in learnt.sentences[0]
    assert f"the middle of {len(within)} completed trials" in learnt.sentences[0]
    rank = next(one for one in learnt.regions if one.name == "lora.r")
    assert rank.high == 8
    beyond = len(done) - len(within)
    never = f"{beyond} of {len(done)} completed trials never kept train/adapter_parameters <= 8000"
    assert any(never in one for one in learnt.sentences)
    assert next(iter(learnt.importance)) == "lora.r"


def test_the_seed_noise_of_a_confirmation_is_in_the_report(tmp_path: Path) -> None:
    data = read(many_trials(tmp_path / "mine", 12, loss=lambda *_: 0.8))
    before = gather(data, 0.0)
    assert "compare them with other seeds: loratune confirm " in before["verdict"][1]
    confirm(data, lead=0.1, noise=0.004)
    learnt = gather(data, 0.0)["learnt"]["sentences"]
    (noise,) = (one for one in learnt if "A seed changes the result by ±" in one)
    assert "its lead is real" in noise
    assert f"A seed changes the result by ±{0.004:.4f}" in noise


def confirm(data: ExperimentData, *, lead: float, noise: float) -> None:
    """Write the experiment in which the two best trials ran with three more seeds, `noise` apart."""
    parent = data.store.folder.parent
    search = {"name": f"{data.store.name}-confirm-2x3", "num_trials": 6, "results_dir": parent, "mode": "min"}
    store = ExperimentStore.create(Config.model_validate({"search": search, "wandb": {"mode": "disabled"}}))
    study = store.create_study(store.read_config().config).study
    for place, trial in enumerate(data.leaderboard()[:2]):
        for seed in range(3):
            trial_id = f"c{place}{seed}"
            value = 0.8 + lead * place + noise * (seed - 1)
            (store.folder / trial_id).mkdir()
            row = {"step": 100, "trial_state": "completed", "eval/loss": value}
            (store.folder / trial_id / "results.jsonl").write_text(json.dumps(row) + "\n")
            attributes = {
                "ray_trial_id": trial_id,
                "trial_state": "completed",
                "params": {**trial.params, "training.seed": 43 + seed},
            }
            study.add_trial(create_trial(state=OptunaState.COMPLETE, value=value, user_attrs=attributes))
