"""How close a text is to its reference, by the words they share."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainable.evaluation.catalogue import Metric, declares

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer
    from sacrebleu.metrics.bleu import BLEU as SacreBleu

BLEU = "nlg/bleu_score"
ROUGE_1 = "nlg/rouge_1_f"
ROUGE_2 = "nlg/rouge_2_f"
ROUGE_L = "nlg/rouge_l_f"

_ROUGE = {"rouge1": (ROUGE_1, 1), "rouge2": (ROUGE_2, 2), "rougeL": (ROUGE_L, 1)}
"""Each of rouge-score's names: the key, and the tokens that a reference needs to be scored."""
_BLEU_ORDER = 4


@declares(*(Metric(key, "max", "") for key in (BLEU, ROUGE_1, ROUGE_2, ROUGE_L)))
def nlg_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return BLEU and ROUGE of all rows, each in [0, 1] and without a unit.

    - `nlg/bleu_score`: corpus BLEU, BP * exp(mean of log p_n, n = 1..N), with the clipped precisions p_n of
      n-grams over all rows and the brevity penalty BP = min(1, exp(1 - r / g)) for g generated and r
      reference tokens. sacrebleu's, with its 13a tokens and exponential smoothing, over 100 (Papineni et al.
      2002, Post 2018). N is 4, or less where no reference has four tokens: the precision of n-grams that no
      reference has is undefined, not 0.
    - `nlg/rouge_1_f`, `nlg/rouge_2_f`: the mean over rows of F = 2PR / (P + R), of the shared 1- and 2-grams;
      `nlg/rouge_l_f`: of the longest common subsequence. rouge-score's, with Porter's stemmer (Lin 2004).
      Rows whose reference has no such n-gram are left out.

    A metric is absent where no reference has a token of its kind. ROUGE sees letters a to z and digits only:
    "-5" and "5" are the same to it, and a text in another script has no tokens, so it must not judge alone.
    """
    return _bleu(predictions, references) | _rouge(predictions, references)


def _bleu(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenize = Tokenizer13a()
    longest = max((len(tokenize(reference.rstrip()).split()) for reference in references), default=0)
    if not longest:
        return {}
    metric = _bleu_of_order(min(longest, _BLEU_ORDER))
    found = metric.corpus_score(list(predictions), [list(references)]).score
    # exp(log(100)) is a little above 100.
    return {BLEU: min(1.0, found / 100)}


def _rouge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    tokenize, scorer = _rouge_tools()
    values: dict[str, list[float]] = {}
    for prediction, reference in zip(predictions, references, strict=True):
        tokens = len(tokenize.tokenize(reference))
        found = scorer.score(reference, prediction)
        for name, (key, needed) in _ROUGE.items():
            if tokens >= needed:
                values.setdefault(key, []).append(found[name].fmeasure)
    return {key: sum(rows) / len(rows) for key, rows in values.items()}


@functools.cache
def _bleu_of_order(order: int) -> "SacreBleu":
    from sacrebleu.metrics.bleu import BLEU as SacreBleu

    return SacreBleu(max_ngram_order=order)


@functools.cache
def _rouge_tools() -> "tuple[DefaultTokenizer, RougeScorer]":
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    tokenizer = DefaultTokenizer(use_stemmer=True)
    return tokenizer, RougeScorer(list(_ROUGE), tokenizer=tokenizer)
