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
_FIT = "bm25(texts, 4.0, 1.0, 2.0)"
"""A word of the name says more than one of the card."""
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


def looked_for(text: str) -> list[str]:
    """Return the words of a text that entries are looked for by, the most frequent first.

    >>> looked_for('legal "contracts" OR the law')
    ['legal', 'contracts', 'law']

    Args:
        text: any text.
    """
    counts = Counter(word for word in _WORD.findall(words_of(text)) if word not in _STOP_WORDS)
    return [word for word, _ in counts.most_common(_MOST_WORDS)]


def _query(words: list[str]) -> str:
    """The query that finds any of some words; in quotes none is taken for syntax."""
    return " OR ".join(f'"{word}"' for word in words)


class HubTexts:
    """The text index of a catalogue.

    >>> from pathlib import Path
    >>> with Catalogue(Path("empty-hub")) as catalogue:
    ...     HubTexts(catalogue).find_text("legal contracts")
    []

    Args:
        catalogue: open.
        few: up to so many entries every word is looked for.
        beside: more hits than are asked for that are looked up in the catalogue, and no others: a filter leaves out
            some, and to look up each of a million reads all the catalogue from the disk.

    Raises:
        RunError: of every method, that the catalogue cannot be read or written.
    """

    def __init__(self, catalogue: Catalogue, *, few: int = 20_000, beside: int = 500) -> None:
        self._catalogue, self._file, self._few, self._beside = catalogue, catalogue.file, few, beside

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
        words = looked_for(text)
        if most_fit is not None:
            words = self._rarest(words, most_fit)
        telling = self._telling(words)
        found = self._best(telling, chosen, k)
        if len(found) < k and telling != words:
            found = self._best(words, chosen, k)
        return [(number, -score) for number, score in found]

    def _best(self, words: list[str], chosen: EntryFilter | None, k: int) -> list[tuple[int, float]]:
        """The entries that fit any of some words best, and FTS5's scores of them, the least of which is best."""
        if not words:
            return []
        query, most = _query(words), 2 * k + self._beside
        best = self._file.rows(
            f"SELECT rowid, {_FIT} AS fit FROM texts WHERE texts MATCH ? ORDER BY fit, rowid LIMIT ?", [query, most]
        )
        allowed = self._catalogue.allowed([int(number) for number, _ in best], chosen)
        rows = [row for row in best if row[0] in allowed]
        if len(rows) < k and len(best) == most:
            # a filter that leaves few of them: each is looked up
            where, values = entries_where(chosen)
            rows = self._file.rows(
                f"SELECT e.number, {_FIT} AS fit FROM texts JOIN entries e ON e.number = texts.rowid "
                f"WHERE texts MATCH ? AND {where} ORDER BY fit, e.number LIMIT ?",
                [query, *values, k],
            )
        return [(int(number), float(score)) for number, score in rows[:k]]

    def _telling(self, words: list[str]) -> list[str]:
        """Those of some words that tell entries of a large hub apart, where there are any: no more than half have them.

        What more have counts a millionth in a score, and finding it takes a second of a million entries.
        """
        entries = self._most()
        if entries <= self._few or len(words) < 2:
            return words
        return [word for word in words if self._fit(word, entries // 2) <= entries // 2] or words

    def _most(self) -> int:
        """No fewer than there are entries."""
        return int(self._file.rows("SELECT COALESCE(MAX(number), 0) FROM entries")[0][0])

    def _fit(self, word: str, most: int) -> int:
        """How many entries have a word; one more than `most` where more have it, for counting costs what is counted."""
        return int(
            self._file.rows(
                "SELECT COUNT(*) FROM (SELECT rowid FROM texts WHERE texts MATCH ? LIMIT ?)", [_query([word]), most + 1]
            )[0][0]
        )

    def _rarest(self, words: list[str], most: int) -> list[str]:
        """Those of some words, the rarest first, that no more entries than `most` have in all."""
        if self._most() <= most:
            return words
        left, taken = most, list[str]()
        for count, word in sorted((self._fit(word, most), word) for word in words):
            left -= count
            if left < 0:
                break
            taken += [word] if count else []
        return taken
