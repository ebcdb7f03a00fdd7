"""Retrieval by description: names and model cards against the examples."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.arrays import Float64Array
from merge_advisor.select.evidence import Choice, Evidence
from merge_advisor.select.ranking import anchored, ranked, while_positive

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = r"[^\W_]{2,}"


@dataclass(frozen=True)
class Text:
    """Take the k candidates whose name and model card are most like the examples (cosine of TF-IDF).

    >>> texts = ("sorts names", "counts beads", "sorts dates and beads")
    >>> evidence = Evidence(("a", "b", "c"), np.eye(3), lambda: np.ones(3), texts=texts, query="Sorts these dates.")
    >>> [evidence.ids[pick.position] for pick in Text().select(evidence, 3).picks]
    ['c', 'a']
    """

    name: ClassVar[str] = "text"
    centres: ClassVar[str] = "no"
    cost: ClassVar[str] = "nothing"
    stops: ClassVar[str] = "at a similarity of 0: no word in common"

    def select(self, evidence: Evidence, k: int) -> Choice:
        """See `Strategy.select`; the gain of a pick is the TF-IDF cosine of its text with the query."""
        scores = text_similarity(evidence)
        return while_positive(anchored(ranked(scores), evidence.anchor), scores, k)


def words_of(text: str) -> str:
    """Return the text in lower case with spaces between the words of camelCase names.

    Underscores, hyphens and slashes stay: the token pattern divides words there.

    >>> words_of("gsm8kMathWord_problems")
    'gsm8k math word_problems'

    Args:
        text: a name, or the text of a model card.
    """
    return _CAMEL.sub(" ", text).lower()


def text_similarity(evidence: Evidence) -> Float64Array:
    """Return the TF-IDF cosine of each candidate's text with the query, (n,) float64.

    Words are weighted by how rare they are among the candidates' texts; English stop words are left out.

    Args:
        evidence: what the strategy was given; its texts and query are used.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        preprocessor=words_of, token_pattern=_WORD, stop_words="english", sublinear_tf=True, dtype=np.float64
    )
    try:
        pool = vectorizer.fit_transform(evidence.texts)
    except ValueError:  # no word in any text
        return np.zeros(len(evidence.texts))
    # nine digits, as `similarity.cosines`: equal texts must tie
    scores: Float64Array = np.round((pool @ vectorizer.transform([evidence.query]).T).toarray().ravel(), 9)
    return scores
