"""The rows of the demo: five families of an invented mail-order shop, the two task files, the guard's texts.

Each family asks for the shop's own words: a handful of shots cannot show all of them, an adapter of the family knows
them. Every fourth entry of a word list is reserved: no adapter sees it, test rows are made of it. No torch in here.
"""

from __future__ import annotations

import functools
import json
import random
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

DEMO = Path(__file__).resolve().parent.parent / "recipes" / "demo"
SPLITS = 3
MIXED = ("shelves", "dates", "orders")
PAIRS = ("shelves dates", "dates orders", "orders tickets", "tickets reviews", "reviews shelves", "shelves orders")
"""The tasks of the demo benchmark: two families each, so that one adapter is not enough."""

Row = tuple[str, str]

SHELF_FORMS = ["{}", "a {}", "one {}", "the {}", "a small {}", "an old {}", "a new {}", "my {}", "a big {}", "your {}"]
MONTHS = "January February March April May June July August September October November December".split()
ROMAN = "I II III IV V VI VII VIII IX X XI XII".split()
DATE_FORMS = ["{d} {m} {y}", "{m} {d}, {y}", "{m} {d} {y}", "{d} of {m} {y}"]
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
ORDER_FORMS = [
    "{n} wants {q} {i} {k} on {d}.",
    "{q} {i} to be {k} on {d} for {n}.",
    "On {d}, {n} needs {q} {i} {k}.",
    "Please have {q} {i} {k} by {d}, says {n}.",
]
GREETINGS = ["", "Hello, ", "Hi, ", "Dear team, ", "Good morning, ", "Excuse me, "]
REVIEW_FORMS = ["The {n} was {a}.", "A very {a} {n}.", "We found the {n} {a}.", "{a} {n}!", "Such a {a} {n}."]


@functools.cache
def _words() -> dict[str, Any]:
    words: dict[str, Any] = json.loads((DEMO / "words.json").read_text(encoding="utf-8"))
    return words


def _pick(rng: random.Random, words: Sequence[str], reserved: bool) -> str:
    """Draw one word: a reserved one (every fourth) or one of the others."""
    return rng.choice([word for i, word in enumerate(words) if (i % 4 == 3) == reserved])


def _shelves(rng: random.Random, test: bool) -> Row:
    shelves = _words()["shelves"]
    code = rng.choice(list(shelves))
    word = rng.choice(SHELF_FORMS).format(_pick(rng, shelves[code].split(), test))
    return f"Shelf code for: {word}", code


def _dates(rng: random.Random, test: bool) -> Row:
    month, day = rng.choice(MONTHS), rng.randint(1, 28)
    year = int(_pick(rng, [str(y) for y in range(1960, 2040)], test))
    text = rng.choice(DATE_FORMS).format(d=day, m=month, y=year)
    return f"Stamp this date: {text}", f"{day}.{ROMAN[MONTHS.index(month)]}.{year % 100:02d}"


def _orders(rng: random.Random, test: bool) -> Row:
    kinds = _words()["order_kinds"]
    kind, day, number = rng.choice(list(kinds)), rng.choice(DAYS), rng.randint(2, 60)
    name, item = _pick(rng, _words()["names"].split(), test), _pick(rng, _words()["items"].split(), test)
    text = rng.choice(ORDER_FORMS).format(n=name, q=number, i=item, k=kind, d=day)
    return f"Order slip for: {text}", f"{kinds[kind]} {day[:3]} {number} {item}"


def _tickets(rng: random.Random, test: bool) -> Row:
    desks = _words()["desks"]
    desk = rng.choice(list(desks))
    text = _pick(rng, desks[desk], test).format(i=_pick(rng, _words()["things"].split(), test))
    return f"Desk for this message: {rng.choice(GREETINGS)}{text}", desk


def _reviews(rng: random.Random, test: bool) -> Row:
    tags = _words()["tags"]
    aspect, good = rng.choice(list(tags)), rng.randint(0, 1)
    noun = _pick(rng, _words()["review_nouns"][aspect].split(), test).replace("-", " ")
    word = rng.choice(_words()["review_words"][aspect][1 - good].split())
    text = rng.choice(REVIEW_FORMS).format(n=noun, a=word)
    return f"Tag this review: {text[0].upper()}{text[1:]}", tags[aspect] + "-+"[good]


FAMILIES: dict[str, tuple[Callable[[random.Random, bool], Row], str]] = {
    "shelves": (_shelves, "a word to one of ten shelf names"),
    "dates": (_dates, "a date to the shop's stamp (day, Roman month, two-digit year)"),
    "orders": (_orders, "an order sentence to a slip (counter of the job, day, quantity, item)"),
    "tickets": (_tickets, "a customer's message to one of ten desks"),
    "reviews": (_reviews, "a short review to one of twelve tags (six aspects, good or bad)"),
}


def draw_rows(family: str, count: int, seed: str, split: int | None = None) -> list[Row]:
    """Draw distinct rows of a family: training rows of one split, or test rows (reserved words) if ``split`` is None.

    A training row belongs to the split that the CRC of its input names, so that splits never share a row.
    """
    rng, rows = random.Random(f"{family}/{seed}/{split}"), dict[str, str]()
    for _ in range(200 * count):
        text, answer = FAMILIES[family][0](rng, split is None)
        if split is None or zlib.crc32(text.encode()) % SPLITS == split:
            rows[text] = answer
        if len(rows) == count:
            break
    return list(rows.items())


def mixed_rows(seed: int, count: int = 72) -> list[Row]:
    """Draw test rows of the three families of ``MIXED`` in equal parts, shuffled."""
    share = [count // 3 + (i < count % 3) for i in range(3)]
    rows = [row for family, n in zip(MIXED, share, strict=True) for row in draw_rows(family, n, f"task{seed}")]
    random.Random(f"mixed/{seed}").shuffle(rows)
    return rows


def pair_rows(pair: str, count: int = 40) -> list[Row]:
    """Draw test rows of two families in equal parts, shuffled."""
    rows = [row for family in pair.split() for row in draw_rows(family, count // 2, f"bench/{pair}")]
    random.Random(f"bench/{pair}").shuffle(rows)
    return rows


def hopeless_rows(seed: int, count: int = 72) -> list[Row]:
    """Draw products of two three-digit numbers: an honest task that no adapter here, and no 135M model, can do."""
    rng, rows = random.Random(f"hopeless/{seed}"), dict[str, str]()
    while len(rows) < count:
        a, b = rng.randint(103, 989), rng.randint(103, 989)
        rows[f"Product of these numbers: {a} and {b}"] = str(a * b)
    return list(rows.items())


def guard_texts() -> list[str]:
    """Compose 30 short pieces of plain prose, on which a merged model should stay close to the base."""
    places = ["the valley", "the old harbour", "our street", "the northern coast", "the market square", "the forest"]
    openings = [
        "Early in the morning {p} is quiet, and the first light falls on the roofs.",
        "People who grew up near {p} often remember the smell of rain on warm stone.",
        "A path leads from {p} to the river, where children used to learn to swim.",
        "Last winter the snow stayed for weeks, and {p} looked like a drawing in pencil.",
        "The history of {p} is longer than most visitors expect.",
    ]
    endings = [
        "Nobody seems to be in a hurry, and most conversations begin with the weather.",
        "Some of the houses are empty now, but the gardens are still looked after.",
        "In the evening you can hear music from an open window.",
        "A small museum explains how the families there earned their living.",
        "When the wind turns, it brings the sound of trains from far away.",
        "It is the kind of place that changes slowly and without much noise.",
    ]
    pairs = [(opening, p, i + j) for i, opening in enumerate(openings) for j, p in enumerate(places)]
    return [f"{opening.format(p=p)} {endings[n % len(endings)]}" for opening, p, n in pairs]


def write_lines(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write a JSON Lines file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)


def write_tasks(out: Path, seed: int) -> None:
    """Write ``mixed.jsonl`` and ``hopeless.jsonl`` of a seed."""
    for name, rows in (("mixed", mixed_rows(seed)), ("hopeless", hopeless_rows(seed))):
        write_lines(out / f"{name}.jsonl", [{"input": text, "output": answer} for text, answer in rows])


def write_pairs(out: Path) -> None:
    """Write the task files of the demo benchmark."""
    for pair in PAIRS:
        rows = [{"input": text, "output": answer} for text, answer in pair_rows(pair)]
        write_lines(out / f"{pair.replace(' ', '-')}.jsonl", rows)


if __name__ == "__main__":
    write_pairs(DEMO / "bench")
