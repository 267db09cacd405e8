"""`loratune enqueue`, `stop` and `pause`: what a running search is asked from another terminal."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from trainable.errors import ConfigError, ExperimentError
from tune.cli.options import ConfigFile, ExperimentName, ResultsDir, find

if TYPE_CHECKING:
    from tune.store.experiment import ExperimentStore


def enqueue(
    experiment: ExperimentName,
    values: Annotated[list[str], typer.Argument(help="key=value, for some or all axes of the space.")],
    config: ConfigFile = None,
    results_dir: ResultsDir = None,
) -> None:
    """Have a search try a known point next; one that does not run tries it when it is resumed."""
    from search_spaces import Space
    from tune.store.requests import Verb

    store = find(experiment, results_dir, config)
    stored = store.read_config().config
    space = Space.load(stored.search.space, stored.trial())
    point = space.known_point(_point(values), "the enqueued point")
    store.requests.post(Verb.ENQUEUE, point)
    when = "the search tries it next" if store.is_locked() else f"loratune resume {experiment} tries it first"
    shown = ", ".join(f"{key} = {value}" for key, value in point.items())
    typer.echo(f"{shown}: {when}")


def stop(
    experiment: ExperimentName,
    trial: Annotated[str, typer.Argument(help="A running trial's number or id.")],
    config: ConfigFile = None,
    results_dir: ResultsDir = None,
) -> None:
    """Stop one trial of a running search at its next evaluation; it counts as pruned."""
    from tune.store.reader import read
    from tune.store.requests import Verb

    store = _running(experiment, find(experiment, results_dir, config))
    trials = read(store, store.read_config().config).trials
    running = {str(one.number): one for one in trials if not one.state.is_terminal}
    chosen = next((one for one in running.values() if trial in (str(one.number), one.trial_id)), None)
    if chosen is None:
        raise ExperimentError(
            f"experiment '{experiment}' has no running trial '{trial}'. "
            f"Running: {', '.join(running) or 'none'}."
        )
    store.requests.post(Verb.STOP, {"trial_id": chosen.trial_id})
    typer.echo(f"trial {chosen.number} ends at its next evaluation")


def pause(experiment: ExperimentName, config: ConfigFile = None, results_dir: ResultsDir = None) -> None:
    """Save all trials of a running search and end it, as Ctrl-C does; `loratune resume` continues it."""
    from tune.store.requests import Verb

    store = _running(experiment, find(experiment, results_dir, config))
    store.requests.post(Verb.PAUSE)
    typer.echo(f"the search saves its trials and ends; continue it with: loratune resume {experiment}")


def _running(experiment: str, store: "ExperimentStore") -> "ExperimentStore":
    if not store.is_locked():
        raise ExperimentError(
            f"experiment '{experiment}' is not running. Continue it with: loratune resume {experiment}"
        )
    return store


def _point(words: list[str]) -> dict[str, Any]:
    """Read `key=value` words.

    Raises:
        ConfigError: a word has another form.
    """
    point = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"'{word}' must be key=value, such as lora.r=16.")
        point[key.removeprefix("--")] = _value(value)
    return point


def _value(text: str) -> Any:
    """Return what YAML makes of a value, and numbers such as 2e-4, which YAML takes for text."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
