"""What to say of a record whose fields are of no known layout: which they are, and a remedy that works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from merge_advisor.tasks.chat import is_chat
from merge_advisor.tasks.fields import listed, quoted
from merge_advisor.tasks.json_records import begins_json
from merge_advisor.tasks.layouts import LAYOUTS, letter_columns

# common names, for the remedy only: to guess silently which field is the answer would be worse than to ask
_LIKE_INPUT = (
    "input prompt question instruction context text query sentence source problem document article premise passage "
    "dialogue hypothesis paragraph"
).split()
_LIKE_OUTPUT = (
    "output completion answer target response label solution summary translation result reply answers highlights "
    "best_answer coarse_label label_text canonical_solution code correct gold answer_idx answer_index cop"
).split()
_FIRST = ("context", "passage", "article", "document", "paragraph", "support")
"""What a question is asked about, and stands before it."""
_LIKE_CHOICES = ("choices", "options", "endings", "candidates")
_CHOICE_COLUMNS = ("opa", "opb", "opc", "opd")


def without_layout(record: Mapping[str, Any]) -> str:
    """Say which fields a record has, and how to name them.

    >>> without_layout({"document": "d", "summary": "s"})
    'has fields "document", "summary"; rename "document" to "input" and "summary" to "output"'

    Args:
        record: as the file has it.
    """
    if not record:
        return "an object without fields; give input and output"
    has = f"has {'field' if len(record) == 1 else 'fields'} {listed(list(record))}"
    for layout in LAYOUTS:
        if layout.needed <= record.keys():
            null = next((name for name in sorted(layout.needed) if record[name] is None), None)
            if null is not None:
                return f"{null} is null; fill it in or drop the row"
    if is_chat(record.get("segments")):  # axolotl
        return f"{has}, whose texts hold a template; write what is asked as input and what is answered as output"
    whole = _whole(record)
    if whole:
        return f"{has}; name the two that are meant: `fields=input={whole[0]},output={whole[1]}`"
    sources, targets = _like(record, _LIKE_INPUT), _like(record, _LIKE_OUTPUT)
    source, target = (names[0] if names else None for names in (sources, targets))
    chosen = _choices(record)
    mapped = bool(source and target) and (len(sources) > 1 or chosen)
    if mapped and not any(set(",+=`.") & set(name) for name in (*sources, str(target))):
        asked = "+".join(sorted(sources, key=lambda name: name.lower() not in _FIRST))
        choices = f",choices={'+'.join(chosen)}" if chosen else ""
        return f"{has}; name those that are meant, e.g. `fields=input={asked},output={target}{choices}`"
    wanted = [(name, new) for name, new in ((source, "input"), (target, "output")) if name is not None and name != new]
    renamed = " and ".join(f"{quoted(name)} to {quoted(new)}" for name, new in wanted)
    if source and target:
        return f"{has}; rename {renamed}"
    if source or target:
        absent = "output" if source else "input"
        more = len(record) > 1
        named = " (or name the field: `fields=input=FIELD,output=FIELD`)" if more else ""
        renamed = f"rename {renamed} and " if renamed else ""
        return f"{has} and no {absent}; {renamed}add {quoted(absent)}{named}"
    known = "input/output (or prompt/completion, question/answer, messages)"
    return f"{has}; rename them or give {known}, or name them: `fields=input=FIELD,output=FIELD`"


def without_input(record: Mapping[str, Any]) -> str:
    """Say the same of a record that has to have an input alone.

    Args:
        record: as the file has it.
    """
    names = ("input", "instruction", "prompt", "question", "context", "messages")
    null = next((name for name in names if name in record), None)
    if null:
        return f"{null} is null; fill it in or drop the row"
    source = next(iter(_like(record, _LIKE_INPUT)), None)
    has = f"has {'field' if len(record) == 1 else 'fields'} {listed(list(record))}" if record else "has no fields"
    remedy = f'rename {quoted(source)} to "input"' if source else f"give input (or {', '.join(names[1:])})"
    return f"{has} and no input; {remedy}"


def _like(record: Mapping[str, Any], known: list[str]) -> list[str]:
    """Fields of common names, text ones, the likeliest first."""
    by_name = {name.lower(): name for name, value in record.items() if value is not None}
    return [by_name[name] for name in known if name in by_name]


def _choices(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The field that holds choices, or those that hold one each; none where there are none."""
    for name in _like(record, list(_LIKE_CHOICES)):
        value = record[name]
        if isinstance(value, (list, dict)) or begins_json(value):
            return (name,)
    return letter_columns(record) or (_CHOICE_COLUMNS if set(_CHOICE_COLUMNS) <= record.keys() else ())


def _whole(record: Mapping[str, Any]) -> tuple[str, str] | None:
    """Two texts inside the only object of a record, a translation's for example."""
    objects = [(name, value) for name, value in record.items() if isinstance(value, dict)]
    if len(objects) != 1:
        return None
    name, inside = objects[0]
    texts = [key for key, value in inside.items() if isinstance(value, str)]
    if len(texts) < 2 or len(texts) < len(inside) or any(set(",+=`.") & set(key) for key in (name, *texts)):
        return None
    others = _like(record, _LIKE_INPUT)
    return None if others else (f"{name}.{texts[0]}", f"{name}.{texts[1]}")
