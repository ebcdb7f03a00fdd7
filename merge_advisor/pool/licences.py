"""Model cards and licences, as their authors state them; nothing here is legal advice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_advisor.limits import CARD_BYTES
from merge_advisor.plain_text import printable
from merge_advisor.plain_yaml import YamlError, load_yaml
from merge_advisor.regular_files import open_regular

_TEXT_LIMIT = 4000
"""Characters of a card's text that are kept."""
_TEXT_READ = 2**16
"""Characters of it that these are taken from."""
_NAME_LIMIT, _NAMES_KEPT = 100, 50
"""Characters of a language, data set or tag, and how many of each, that are kept."""

_FRONT = re.compile(r"\A---[ \t]*\n(?P<front>.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
# what the hub's card template leaves where an author filled nothing in
_NOISE = re.compile(r"^.*\[More Information Needed\].*$|(?<![^\S\n])[^\S\n]++$", re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
# licences whose terms reach a merge, by what they ask for; patterns on the lower-case name
_FAMILIES = {
    "non-commercial": re.compile(r"(^|-)nc(-|$)|non-?commercial|research"),
    "no-derivatives": re.compile(r"(^|-)nd(-|$)"),
    "copyleft": re.compile(r"^(a|l)?gpl|^cc-by-sa|^osl|^eupl|^mpl|^cecill-2"),
    "llama": re.compile(r"^llama"),
    "gemma": re.compile(r"^gemma"),
    "openrail": re.compile(r"openrail|^bigscience"),
}

_OPEN = re.compile(
    r"^(apache|mit|bsd|isc|cc0|cc-by-\d|unlicense|zlib|bsl-1|artistic|afl|ncsa|postgresql|wtfpl|odc-by|pddl)"
)


@dataclass(frozen=True, slots=True)
class Card:
    """What a model card says.

    >>> card = read_card(Path("adapters/a0"))
    >>> card.licence, card.text
    ('apache-2.0', 'Adapter of family a.')
    """

    licence: str | None = None
    """As its front matter states it, in lower case."""
    text: str = ""
    """The card without front matter, at most 4000 characters."""
    note: str = ""
    """What could not be read of it."""
    languages: tuple[str, ...] = ()
    data_sets: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    """`language`, `datasets` and `tags` of its front matter."""


def read_card(folder: Path) -> Card:
    """Return the model card (README.md) of a folder; an empty one where there is none.

    One that cannot be read whole is read as far as it can, and its note says so.

    Args:
        folder: the model's folder.
    """
    try:
        with open_regular(folder / "README.md") as stream:
            raw = stream.read(CARD_BYTES.most + 1)
    except FileNotFoundError:
        return Card()
    except OSError as error:
        return Card(note=f"its README.md cannot be read ({error.strerror}), so that its licence is not known")
    whole = len(raw) <= CARD_BYTES.most
    text = raw[: CARD_BYTES.most].decode("utf-8-sig", "replace").replace("\r\n", "\n")
    match = _FRONT.match(text)
    body = text[match.end() if match else 0 :][:_TEXT_READ]
    # up to the last end of one: what begins behind it would be looked for to the end of the text, each time
    ends = body.rfind("-->") + 3
    body = _NOISE.sub("", _COMMENT.sub("", body[:ends]) + body[ends:])
    body = "".join(char for char in body if char.isprintable() or char in "\n\t")
    body = re.sub(r"\n{3,}", "\n\n", body).strip()[:_TEXT_LIMIT]
    front: dict[str, Any] = {}
    note = ""
    if not match and not whole and text.startswith("---"):
        note = f"the front matter of its README.md, which states its licence, is cut at {CARD_BYTES.shown()}"
        note = f"{note}; to read it, {CARD_BYTES.remedy()}"
    if match:
        try:
            read = load_yaml(match["front"])
        except YamlError as error:
            said = " ".join(printable(str(error)).split())[:200]
            note = f"the front matter of its README.md, which states its licence, is not YAML as read here ({said})"
        else:
            front = read if isinstance(read, dict) else {}
    return Card(_licence(front), body, note, *(_listed(front.get(name)) for name in ("language", "datasets", "tags")))


def _listed(value: Any) -> tuple[str, ...]:
    """A text or list of texts of the front matter, what cannot be shown left out."""
    items = value if isinstance(value, list) else [] if value is None else [value]
    texts = ("".join(char for char in str(item) if char.isprintable()).strip()[:_NAME_LIMIT] for item in items)
    return tuple(dict.fromkeys(filter(None, texts)))[:_NAMES_KEPT]


def _licence(front: dict[str, Any]) -> str | None:
    value = front.get("license", front.get("licence"))
    if value == "other":  # the hub's word for a licence that is not in its list; `license_name` then says which
        value = front.get("license_name", value)
    if isinstance(value, list):
        value = " ".join(str(item) for item in value[:5])
    text = "" if value is None else "".join(char for char in str(value) if char.isprintable()).strip().lower()[:80]
    return text or None


def licence_conflicts(licences: Sequence[str | None]) -> tuple[str, ...]:
    """Return what stands against sharing a merge of models under these licences, one note each; no legal advice.

    >>> licence_conflicts(["apache-2.0", "cc-by-nc-4.0"])
    ('cc-by-nc-4.0: no commercial use, of the merge neither',)

    Args:
        licences: of the members, in any order; None where a card states none.
    """
    stated = sorted({text.lower() for text in licences if text and text.lower() not in ("other", "unknown")})
    silent = sum(1 for text in licences if not text or text.lower() in ("other", "unknown"))
    families = {name: [text for text in stated if rule.search(text)] for name, rule in _FAMILIES.items()}
    notes = []
    if silent:
        notes.append(f"{silent} of {len(licences)} members state no licence: ask before you share the merge")
    if families["non-commercial"]:
        notes.append(f"{', '.join(families['non-commercial'])}: no commercial use, of the merge neither")
    if families["no-derivatives"]:
        notes.append(f"{', '.join(families['no-derivatives'])}: forbids derivatives, and a merge is one")
    for text in families["copyleft"]:
        if others := [other for other in stated if other != text]:
            notes.append(f"{text} asks for itself on what is derived; beside it: {', '.join(others)}")
    for name in ("llama", "gemma", "openrail"):
        if families[name] and len(stated) > len(families[name]):
            notes.append(f"{', '.join(families[name])}: its terms of use bind the whole merge, other members included")
    sorted_out = [text for matches in families.values() for text in matches]
    strange = [text for text in stated if text not in sorted_out and not _OPEN.search(text)]
    if strange:
        notes.append(f"{', '.join(strange)}: no common open licence; read its terms before you share the merge")
    return tuple(notes)


def is_open_licence(licence: str | None) -> bool:
    """Tell whether a licence is a common open one, that asks for no more than its notice; no legal advice.

    >>> is_open_licence("apache-2.0"), is_open_licence("cc-by-nc-4.0"), is_open_licence(None)
    (True, False, False)

    Args:
        licence: as a card states it.
    """
    text = (licence or "").strip().lower()
    return bool(_OPEN.search(text)) and not any(family.search(text) for family in _FAMILIES.values())
