"""Rows of the small T5 pool: synthetic text tasks given as instructions, in families. No torch in here.

A text is made of invented words (syllables such as `ba`, `nor`), so that nothing can be learnt by heart. A task is an
instruction and a function of the words. Tasks of one family ask for the same skill in another size or form.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"

Row = tuple[str, str]
Words = Sequence[str]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of row."""

    family: str
    instruction: str
    """What the model is told, before a colon and the words."""
    answer: Callable[[Words], str]
    words: tuple[int, int] = (2, 3)
    """Fewest and most words of a text."""
    letters: tuple[int, int] = (3, 4)
    """Fewest and most letters of a word."""


def _each(change: Callable[[str], str], between: str = " ") -> Callable[[Words], str]:
    return lambda words: between.join(change(word) for word in words)


def _swapped(words: Words) -> str:
    return " ".join([words[-1], *words[1:-1], words[0]])


def _without(letters: str) -> Callable[[str], str]:
    return lambda word: "".join(letter for letter in word if letter not in letters)


def _starred(word: str) -> str:
    return "".join("*" if letter in VOWELS else letter for letter in word)


ONE = (1, 1)
BASE: dict[str, Kind] = {
    "copy": Kind("copy", "Repeat the text", " ".join),
    "first": Kind("pick", "Give the first word", lambda words: words[0]),
    "last": Kind("pick", "Give the last word", lambda words: words[-1]),
    "capitals": Kind("case", "Write the text in capitals", lambda words: " ".join(words).upper()),
    "spell": Kind("spell", "Spell the word", lambda words: "-".join(words[0]), ONE, (3, 6)),
    "begins": Kind("letters", "Give the first letter", lambda words: words[0][0]),
}
"""What the base is trained on, and asked again in other words by the pool."""

POOL: dict[str, Kind] = {
    "capital_first": Kind("case", "Begin every word with a capital", _each(str.capitalize)),
    "capital_last": Kind("case", "End every word with a capital", _each(lambda word: word[:-1] + word[-1].upper())),
    "capital_vowels": Kind("case", "Raise the vowels",
                           _each(lambda word: "".join(c.upper() if c in VOWELS else c for c in word))),
    "initials": Kind("letters", "Give the initials", _each(lambda word: word[0], "")),
    "initials_dots": Kind("letters", "Abbreviate the name", _each(lambda word: word[0].upper() + ".", "")),
    "endings": Kind("letters", "Collect the last letters", _each(lambda word: word[-1], "")),
    "second_word": Kind("pick", "Give the second word", lambda words: words[1], (3, 3)),
    "edges": Kind("pick", "Give both outer words", lambda words: f"{words[0]} {words[-1]}", (3, 3)),
    "no_vowels": Kind("drop", "Remove the vowels", _each(_without(VOWELS))),
    "no_consonants": Kind("drop", "Keep the vowels only", _each(_without(CONSONANTS), "")),
    "no_first": Kind("drop", "Behead every word", _each(lambda word: word[1:])),
    "no_last": Kind("drop", "Cut every word short", _each(lambda word: word[:-1])),
    "swap_two": Kind("order", "Exchange the two words", _swapped, (2, 2)),
    "swap_three": Kind("order", "Exchange the outer words", _swapped, (3, 3)),
    "backwards_three": Kind("reverse", "Write the word from its end", lambda words: words[0][::-1], ONE, (3, 4)),
    "backwards_five": Kind("reverse", "Write the long word from its end", lambda words: words[0][::-1], ONE, (5, 6)),
    "doubled_words": Kind("double", "Say every word twice", _each(lambda word: f"{word} {word}"), (1, 2)),
    "doubled_letters": Kind("double", "Double every letter", _each(lambda word: "".join(c + c for c in word)), (1, 2)),
    "doubled_vowels": Kind("double", "Stretch the vowels",
                           _each(lambda word: "".join(c + c if c in VOWELS else c for c in word))),
    "starred": Kind("mask", "Hide the vowels", _each(_starred)),
    "starred_first": Kind("mask", "Hide the first letters", _each(lambda word: "*" + word[1:])),
    "plural": Kind("append", "Make every word a plural", _each(lambda word: word + "s")),
    "past": Kind("append", "Put every word into the past", _each(lambda word: word + "ed")),
    "hyphens": Kind("join", "Tie the words together", "-".join),
    "commas": Kind("join", "List the words", ", ".join),
    "word_count": Kind("count", "Count the words", lambda words: str(len(words)), (1, 5), (2, 3)),
    "letter_count": Kind("count", "Count the letters", lambda words: str(len(words[0])), ONE, (2, 7)),
}  # fmt: skip
"""One adapter each."""

FAMILIES = {name: kind.family for name, kind in POOL.items()}
KINDS = BASE | POOL


def instructions() -> list[str]:
    """List what is asked, each once."""
    return [kind.instruction for kind in KINDS.values()]


def _word(rng: random.Random, letters: tuple[int, int]) -> str:
    count, vowel = rng.randint(*letters), rng.random() < 0.3
    found = ""
    for _ in range(count):
        found += rng.choice(VOWELS if vowel else CONSONANTS)
        vowel = not vowel
    return found


def rows_of(name: str, seed: str) -> Iterator[Row]:
    """Draw rows of a task without end; none twice in 20,000 draws is not promised, see `draw`."""
    kind, rng = KINDS[name], random.Random(f"{name}/{seed}")
    while True:
        words = [_word(rng, kind.letters) for _ in range(rng.randint(*kind.words))]
        yield f"{kind.instruction}: {' '.join(words)}", kind.answer(words)


def draw(name: str, count: int, seed: str, without: Sequence[Row] = ()) -> list[Row]:
    """Draw different rows of a task, none of `without`.

    Raises:
        ValueError: the task has not so many.
    """
    found: dict[Row, None] = {}
    seen = set(without)
    rows = rows_of(name, seed)
    for _ in range(100 * count):
        row = next(rows)
        if row not in seen:
            found[row] = None
        if len(found) == count:
            return list(found)
    raise ValueError(f"task {name}: has not {count} different rows")
