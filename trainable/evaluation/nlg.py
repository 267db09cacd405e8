"""How near a text is to its reference, by the words they share."""

import functools
from collections.abc import Sequence

import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from trainable import records

_ROUGE = {"rouge1": records.NLG_ROUGE_1, "rouge2": records.NLG_ROUGE_2, "rougeL": records.NLG_ROUGE_L}


def nlg_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return BLEU and ROUGE, each in [0, 1].

    `nlg/bleu_score` is sacrebleu's corpus BLEU (13a tokens; Papineni et al. 2002, Post 2018) over 100.
    `nlg/rouge_{1,2,l}_f` are the means over rows of rouge-score's F1 with stemming (Lin 2004). ROUGE sees
    letters and digits only, so a minus sign is lost on it: it is never to be the only judge.
    """
    if not predictions:
        return {}
    bleu = sacrebleu.corpus_bleu(list(predictions), [list(references)]).score / 100
    pairs = zip(predictions, references, strict=True)
    rows = [_scorer().score(reference, prediction) for prediction, reference in pairs]
    means = {key: sum(row[name].fmeasure for row in rows) / len(rows) for name, key in _ROUGE.items()}
    return {records.NLG_BLEU: bleu, **means}


def nlg_row(prediction: str, reference: str) -> dict[str, float]:
    """Return one row's scores: sentence BLEU (effective order: short texts have one too) and ROUGE-L."""
    bleu = sacrebleu.sentence_bleu(prediction, [reference], use_effective_order=True).score / 100
    rouge = _scorer().score(reference, prediction)["rougeL"].fmeasure
    return {records.NLG_BLEU: bleu, records.NLG_ROUGE_L: rouge}


@functools.cache
def _scorer() -> RougeScorer:
    return RougeScorer(list(_ROUGE), use_stemmer=True)
