"""The licence of something made of several models: the one they share, or a refusal; nothing here is legal advice."""

from __future__ import annotations

from collections.abc import Mapping

from merge_advisor.errors import InputError
from merge_advisor.plain_text import short_name

# https://huggingface.co/docs/hub/repositories-licenses: what else a card states is `other` with a `license_name`
_KNOWN = frozenset(
    """apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openrail++ open-mdw osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma""".split()
)
_SILENT = (None, "", "other", "unknown")
_LISTED = 3
"""Models that a message names of each licence."""


def shared_licence(stated: Mapping[str, str | None], given: str | None = None) -> str:
    """Return the licence of what is made of some models.

    >>> shared_licence({"base org/base": "apache-2.0", "law": "apache-2.0"})
    'apache-2.0'
    >>> shared_licence({"law": "mit", "code": "cc-by-nc-4.0"})
    Traceback (most recent call last):
    merge_advisor.errors.InputError: the licences differ (cc-by-nc-4.0: code; mit: law); read them, then state the ...

    Args:
        stated: licence by model, as each card states it; None where it states none.
        given: what the user decided on; it wins.

    Raises:
        InputError: some state none, or they differ, and none was given.
    """
    if given is not None:
        if given.strip().lower() in _SILENT:
            raise InputError(f"`licence={short_name(given)}`: is no licence; give an id such as apache-2.0")
        return given.strip().lower()
    state = "state the result's with `licence=ID`"
    silent = [name for name, licence in stated.items() if licence in _SILENT]
    if silent:
        raise InputError(f"no licence is stated by {_names(silent)}; ask its author, then {state}")
    by_licence: dict[str, list[str]] = {}
    for name, licence in stated.items():
        by_licence.setdefault(str(licence), []).append(name)
    if len(by_licence) > 1:
        parts = "; ".join(f"{licence}: {_names(names)}" for licence, names in sorted(by_licence.items()))
        raise InputError(f"the licences differ ({parts}); read them, then {state}")
    if not by_licence:
        raise InputError(f"nothing states a licence; {state}")
    return next(iter(by_licence))


def licence_fields(licence: str) -> dict[str, str]:
    """Return the licence as the front matter of a model card states it.

    >>> licence_fields("apache-2.0"), licence_fields("acme-research")
    ({'license': 'apache-2.0'}, {'license': 'other', 'license_name': 'acme-research'})

    Args:
        licence: any.
    """
    return {"license": licence} if licence in _KNOWN else {"license": "other", "license_name": licence}


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(short_name(name) for name in names[:_LISTED]) + more
