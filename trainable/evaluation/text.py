"""Properties of a text: how readable it is, how long beside its reference, how varied.

None of them compares what the texts say, so none of them is an objective of its own.
"""

import re
from collections.abc import Sequence

from trainable.evaluation.catalogue import Metric, declares

READABILITY = "eval/readability_score"
LENGTH_SIMILARITY = "eval/length_similarity"
VOCABULARY_DIVERSITY = "eval/vocabulary_diversity"

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+(?:[.,]\d+)*")
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")
_VOWELS = re.compile(r"[aeiouy]+")


@declares(
    Metric(
        READABILITY, None, "", gameable_because="short words in short sentences score best, whatever they say"
    ),
    Metric(LENGTH_SIMILARITY, "max", "", gameable_because="any text of the reference's length scores 1"),
    Metric(VOCABULARY_DIVERSITY, None, "", gameable_because="a text of one word scores 1"),
)
def text_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return three properties, means over rows, each in [0, 1] and without a unit; nothing without rows.

    - `eval/readability_score`: `readability` of the prediction.
    - `eval/length_similarity`: 1 - |g - r| / max(g, r) for g words in the prediction and r in the reference;
      1 if both have none.
    - `eval/vocabulary_diversity`: the type/token ratio (Johnson 1944), different words over words, case
      ignored; 0 without words. It falls with the length of a text.

    Numbers are words. Of readability and diversity neither high nor low is better: a reference has its own.
    """
    if not predictions:
        return {}
    words = [_words(text) for text in predictions]
    lengths = [
        1 - abs(len(own) - len(other)) / max(len(own), len(other), 1)
        for own, other in zip(words, map(_words, references), strict=True)
    ]
    return {
        READABILITY: _mean([readability(text) for text in predictions]),
        LENGTH_SIMILARITY: _mean(lengths),
        VOCABULARY_DIVERSITY: _mean([len(set(own)) / len(own) if own else 0.0 for own in words]),
    }


def readability(text: str) -> float:
    """Return Flesch's reading ease over 100, clamped to [0, 1]: 1 is very easy; 0 without words.

    Reading ease = 206.835 - 1.015 * words / sentences - 84.6 * syllables / words (Flesch 1948). Syllables are
    counted as groups of vowels; a number counts as one syllable, a text without a full stop as one sentence.
    """
    words = _words(text)
    if not words:
        return 0.0
    sentences = max(1, len(_SENTENCE_END.findall(text)))
    syllables = sum(map(_syllables, words))
    ease = 206.835 - 1.015 * len(words) / sentences - 84.6 * syllables / len(words)
    return min(1.0, max(0.0, ease / 100))


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _syllables(word: str) -> int:
    """Count groups of vowels, without a silent final e; a number counts as one."""
    groups = len(_VOWELS.findall(word))
    silent = word.endswith("e") and not word.endswith(("le", "ee")) and groups > 1
    return max(1, groups - silent)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
