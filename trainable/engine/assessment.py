"""What an adapter writes for a sample of rows, and how good it is."""

from collections.abc import Iterable, Mapping

from trainable import records
from trainable.data import TokenTable
from trainable.engine.engine import Engine
from trainable.evaluation import Generated, Scored, sample_rows, score_texts


def generate_sample(engine: Engine, names: Iterable[str], table: TokenTable) -> Mapping[str, list[Generated]]:
    """Return each named trial's texts for its sample of `evaluation.text_rows` rows of `table`."""
    limits = {name: engine.tenant(name).config.evaluation.text_rows for name in names}
    rows = {name: sample_rows(len(table), limit) for name, limit in limits.items()}
    return engine.generate(rows, table) if rows else {}


def score_sample(engine: Engine, name: str, table: TokenTable) -> Scored:
    """Generate and score a trial's texts for the sample; nothing if `evaluation.text_metrics` is `never`."""
    evaluation = engine.tenant(name).config.evaluation
    if evaluation.text_metrics == "never":
        return Scored({})
    return score_texts(generate_sample(engine, [name], table)[name], table, evaluation)


def assess(engine: Engine, name: str, table: TokenTable) -> Scored:
    """Compute a trial's `eval/loss` on `table`, and score its texts for the sample."""
    record = engine.evaluate([name], table)[name]
    loss = {key: record[key] for key in (records.EVAL_LOSS, records.EVAL_ROWS) if key in record}
    texts = score_sample(engine, name, table)
    return Scored(loss | texts.metrics, texts.predictions)
