"""Retrieval by description: names and model cards against the examples."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.arrays import Float64Array
from merge_advisor.select.evidence import Choice, Evidence
from merge_advisor.select.likeness import anchored, ranked, while_positive

CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
WORD = r"[^\W_]{2,}"


@dataclass(frozen=True)
class Text:
    """Take the k candidates whose name and model card are most like the examples (cosine of TF-IDF)."""

    name: ClassVar[str] = "text"
    centres: ClassVar[str] = "no"
    cost: ClassVar[str] = "nothing"
    stops: ClassVar[str] = "at a similarity of 0: no word in common"

    def select(self, evidence: Evidence, k: int) -> Choice:
        """Choose by falling TF-IDF cosine of text and query, which is the gain of a pick."""
        scores = text_likeness(evidence)
        return while_positive(anchored(ranked(scores), evidence.anchor), scores, k)


def words_of(text: str) -> str:
    """Split camelCase; underscores, hyphens and slashes divide words by the token pattern."""
    return CAMEL.sub(" ", text).lower()


def text_likeness(evidence: Evidence) -> Float64Array:
    """TF-IDF cosine of each candidate's text with the query, (n,) float64.

    Word weights are those of the texts, English stop words out.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        preprocessor=words_of, token_pattern=WORD, stop_words="english", sublinear_tf=True, dtype=np.float64
    )
    try:
        pool = vectorizer.fit_transform(evidence.texts)
    except ValueError:  # no word in any text
        return np.zeros(len(evidence.texts))
    found: Float64Array = np.round((pool @ vectorizer.transform([evidence.query]).T).toarray().ravel(), 9)
    return found
