"""How near a text is to its reference, by the words they share."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainable.evaluation.catalogue import Metric, declares

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

BLEU = "nlg/bleu_score"
ROUGE_1 = "nlg/rouge_1_f"
ROUGE_2 = "nlg/rouge_2_f"
ROUGE_L = "nlg/rouge_l_f"

_ROUGE = {"rouge1": ROUGE_1, "rouge2": ROUGE_2, "rougeL": ROUGE_L}


@declares(*(Metric(key, "max", "") for key in (BLEU, ROUGE_1, ROUGE_2, ROUGE_L)))
def nlg_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return BLEU and ROUGE of all rows, each in [0, 1] and without a unit; nothing without rows.

    - `nlg/bleu_score`: corpus BLEU, BP * exp(mean of log p_n, n = 1..4), with the clipped precisions p_n of
      n-grams over all rows and the brevity penalty BP = min(1, exp(1 - r / g)) for g generated and r
      reference tokens. sacrebleu's, with its 13a tokens and exponential smoothing, over 100 (Papineni et al.
      2002, Post 2018).
    - `nlg/rouge_1_f`, `nlg/rouge_2_f`: the mean over rows of F = 2PR / (P + R), of the shared 1- and 2-grams;
      `nlg/rouge_l_f`: of the longest common subsequence. rouge-score's, with Porter's stemmer (Lin 2004).

    ROUGE sees letters a to z and digits only: "-5" and "5" are the same to it, so it must not judge alone.
    """
    import sacrebleu

    if not predictions:
        return {}
    bleu = sacrebleu.corpus_bleu(list(predictions), [list(references)]).score / 100
    pairs = zip(predictions, references, strict=True)
    rows = [_scorer().score(reference, prediction) for prediction, reference in pairs]
    means = {key: sum(row[name].fmeasure for row in rows) / len(rows) for name, key in _ROUGE.items()}
    return {BLEU: bleu, **means}


def nlg_row(prediction: str, reference: str) -> dict[str, float]:
    """Return one row's `nlg/bleu_score` and `nlg/rouge_l_f`, each in [0, 1].

    BLEU of a row is sacrebleu's sentence BLEU with effective order: n-grams that are longer than the text are
    left out, so that a text of one word has a score too.
    """
    import sacrebleu

    bleu = sacrebleu.sentence_bleu(prediction, [reference], use_effective_order=True).score / 100
    rouge = _scorer().score(reference, prediction)["rougeL"].fmeasure
    return {BLEU: bleu, ROUGE_L: rouge}


@functools.cache
def _scorer() -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(_ROUGE), use_stemmer=True)
