"""Text of a hub folder: which of its models fit some words, by full-text search over names, cards and tags."""

from __future__ import annotations

import re
from collections import Counter

from merge_advisor.hub.catalogue import Catalogue, entries_where
from merge_advisor.hub.filters import EntryFilter
from merge_advisor.select.text import words_of

_WORD = re.compile(r"[^\W_]{2,}")
_MOST_WORDS = 64
"""Words of a query that are looked for, the most frequent ones: a file of examples has thousands."""
_STOP_WORDS = frozenset(
    "a about after all also an and any are as at be been but by can do for from had has have he her his how i if in "
    "into is it its just more most my no not of on one only or other our out over she so some such than that the their "
    "them then there these they this to up was we were what when where which who will with would you your".split()
)


def words_for_index(text: str) -> str:
    """Return a text as it is indexed: the words of camelCase names apart, in lower case.

    >>> words_for_index("gsm8kMathWord")
    'gsm8k math word'

    Args:
        text: names, or the text of a card.
    """
    return words_of(text)


def query_of(text: str) -> str:
    """Return the query that finds any of a text's words; nothing of the text is taken for syntax.

    >>> query_of('legal "contracts" OR the law')
    '"legal" OR "contracts" OR "law"'

    Args:
        text: any text.
    """
    counts = Counter(word for word in _WORD.findall(words_of(text)) if word not in _STOP_WORDS)
    return " OR ".join(f'"{word}"' for word, _ in counts.most_common(_MOST_WORDS))


class HubTexts:
    """The text index of a catalogue.

    >>> from pathlib import Path
    >>> with Catalogue(Path("empty-hub")) as catalogue:
    ...     HubTexts(catalogue).find_text("legal contracts")
    []

    Args:
        catalogue: open.

    Raises:
        RunError: of every method, that the catalogue cannot be read or written.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue, self._file = catalogue, catalogue.file

    def keep_text(self, number: int) -> None:
        """Bring the text index up to what an entry says now.

        Args:
            number: of the entry.
        """
        self._file.run("DELETE FROM texts WHERE rowid = ?", [number])
        for entry in self._catalogue.by_number([number]).values():
            words = " ".join([*entry.tags, *entry.languages, *entry.data_sets])
            names = " ".join([*entry.ids, entry.source])
            self._file.run(
                "INSERT INTO texts (rowid, name, card, tags) VALUES (?, ?, ?, ?)",
                [number, words_for_index(names), words_for_index(entry.card), words_for_index(words)],
            )

    def find_text(
        self, text: str, chosen: EntryFilter | None = None, k: int = 10, *, most_fit: int | None = None
    ) -> list[tuple[int, float]]:
        """Return the numbers of the entries whose name, card and tags fit a text best, each with its BM25 score.

        Args:
            text: any text; its words are looked for, each on its own.
            chosen: which entries; None: all with a current id.
            k: how many at most.
            most_fit: where there are more entries than this, look for the rarest words alone, which so many entries
                have in all; None: for all words.
        """
        query = query_of(text)
        if query and most_fit is not None:
            query = self._rarest(query, most_fit)
        if not query:
            return []
        where, values = entries_where(chosen)
        # a word of the name says more than one of the card
        rows = self._file.rows(
            "SELECT e.number, bm25(texts, 4.0, 1.0, 2.0) AS fit FROM texts JOIN entries e ON e.number = texts.rowid "
            f"WHERE texts MATCH ? AND {where} ORDER BY fit, e.number LIMIT ?",
            [query, *values, k],
        )
        return [(int(number), -float(score)) for number, score in rows]

    def _rarest(self, query: str, most: int) -> str:
        """The part of a query whose words, the rarest first, no more entries than `most` have in all."""
        if int(self._file.rows("SELECT COALESCE(MAX(number), 0) FROM entries")[0][0]) <= most:
            return query
        found = []
        for word in query.split(" OR "):
            # no further than it matters: counting costs what is counted
            fit = self._file.rows(
                "SELECT COUNT(*) FROM (SELECT rowid FROM texts WHERE texts MATCH ? LIMIT ?)", [word, most + 1]
            )
            found.append((int(fit[0][0]), word))
        left, taken = most, list[str]()
        for count, word in sorted(found):
            left -= count
            if left < 0:
                break
            taken += [word] if count else []
        return " OR ".join(taken)
