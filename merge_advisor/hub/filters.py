"""Filters of a hub: `licence=apache-2.0,rank<=16` as a condition of SQL, whose values are parameters of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from merge_advisor.errors import InputError
from merge_advisor.plain_text import short_name

_TERM = re.compile(r"\s*(?P<field>[a-z_]+)\s*(?P<operator><=|>=|!=|=|<|>)\s*(?P<value>.*?)\s*", re.DOTALL)
_TEXTS = {
    "kind": "e.kind",
    "licence": "coalesce(e.licence, 'unknown')",
    "license": "coalesce(e.licence, 'unknown')",
    "source": "e.source",
    "revision": "coalesce(e.revision, '')",
    "template": "e.template",
    "added": "e.added",
}
_NUMBERS = {"rank": "e.rank", "size": "e.size"}
_LISTS = {"language": "languages", "data_set": "data_sets", "tag": "tags", "module": "modules"}
FILTER_FIELDS = ("id", "base", *(name for name in _TEXTS if name != "license"), *_NUMBERS, *_LISTS)
"""What a filter may speak of; `license` is another spelling of `licence`."""


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries are looked at, as SQL on `entries e`.

    >>> read_filter("rank<=16, template=chat")
    EntryFilter(where='e.rank <= ? AND e.template = ?', values=(16, 'chat'))
    """

    where: str = ""
    """Empty: all."""
    values: tuple[str | int, ...] = ()

    def and_also(self, other: EntryFilter) -> EntryFilter:
        """Return the filter that both pass.

        Args:
            other: another one.
        """
        where = " AND ".join(part for part in (self.where, other.where) if part)
        return EntryFilter(where, (*self.values, *other.values))


def read_filter(text: str) -> EntryFilter:
    """Return what a filter stands for: terms between commas, all of which have to hold.

    A term is a field, an operator (=, !=, <, <=, >, >=) and a value; with = and != a value may have `*` and `?`.

    Args:
        text: the filter; empty: all entries.

    Raises:
        InputError: a term that is none, an unknown field, or a value that is no number where one is needed.
    """
    found = EntryFilter()
    for part in text.split(",") if text.strip() else ():
        match = _TERM.fullmatch(part)
        if match is None or not match["value"]:
            raise InputError(
                f"`filter={short_name(text)}`: '{short_name(part.strip())}' is no term; write FIELD=VALUE or "
                "FIELD<=NUMBER, several with commas between"
            )
        found = found.and_also(_term(match["field"], match["operator"], match["value"], text))
    return found


def _term(field: str, operator: str, value: str, text: str) -> EntryFilter:
    if field in _NUMBERS:
        if not re.fullmatch(r"\d{1,18}", value):
            raise InputError(f"`filter={short_name(text)}`: {field} is a number, not '{short_name(value)}'")
        return EntryFilter(f"{_NUMBERS[field]} {operator} ?", (int(value),))
    if operator not in ("=", "!=") and field != "added":
        raise InputError(f"`filter={short_name(text)}`: {field} is text; compare it with = or !=")
    negated = "NOT " if operator == "!=" else ""
    if field in ("licence", "license"):  # cards state them in any case; they are kept in lower case
        value = value.lower()
    if field == "added":  # 2026-11-29 is that whole day, 2026-11 that month
        width = len(value) if value.isascii() and not any(char in value for char in "*?[") else 99
        return _compared(f"substr(e.added, 1, {width})", operator, value)
    if field in _TEXTS:
        return _compared(_TEXTS[field], operator, value)
    if field in _LISTS:
        inside = _compared("item.value", "=", value)
        return EntryFilter(
            f"{negated}EXISTS (SELECT 1 FROM json_each(e.{_LISTS[field]}) item WHERE {inside.where})", inside.values
        )
    subqueries: dict[str, Callable[[str], str]] = {
        "id": lambda where: f"SELECT 1 FROM names n WHERE n.entry = e.number AND n.current = 1 AND {where}",
        "base": lambda where: f"SELECT 1 FROM bases b WHERE b.digest = e.base AND {where}",
    }
    if field not in subqueries:
        raise InputError(
            f"`filter={short_name(text)}`: unknown field '{short_name(field)}'; known: {', '.join(FILTER_FIELDS)}"
        )
    inside = _compared("n.id" if field == "id" else "b.id", "=", value)
    return EntryFilter(f"{negated}EXISTS ({subqueries[field](inside.where)})", inside.values)


def _compared(column: str, operator: str, value: str) -> EntryFilter:
    if operator in ("=", "!=") and any(char in value for char in "*?["):
        # or literally: an id may have brackets in it
        return EntryFilter(f"{'' if operator == '=' else 'NOT '}({column} GLOB ? OR {column} = ?)", (value, value))
    return EntryFilter(f"{column} {operator} ?", (value,))
