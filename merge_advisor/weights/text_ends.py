"""What a base puts before a text and ends an answer with, where it is unusual: read from its files, no library."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from merge_advisor.regular_files import read_regular_text
from merge_advisor.weights.files import FileError, read_json

_ADDING = ("LlamaTokenizer", "GemmaTokenizer", "CodeLlamaTokenizer", "MistralCommonTokenizer")
"""Tokenizers that add a begin token unless their configuration says otherwise."""


def adds_begin_token(folder: Path) -> bool:
    """Return whether the tokenizer of a model folder puts a token before a text.

    It tells apart what was measured with such a token and without; what rows get is asked of the tokenizer itself
    (`Backbone.lead`).

    >>> adds_begin_token(Path("base"))
    False

    Args:
        folder: of the base.
    """
    try:
        config = read_json(folder / "tokenizer_config.json")
    except FileError:
        config = {}
    asked = config.get("add_bos_token")
    if isinstance(asked, bool):
        return asked
    processor = _post_processor(folder / "tokenizer.json")
    if processor is not None:
        return _begins(processor)
    return str(config.get("tokenizer_class", "")).removesuffix("Fast") in _ADDING


def other_ends(folder: Path, ending: str) -> str:
    """Return what tells apart where answers end; empty where it is the one end token of the base's tokenizer.

    As `adds_begin_token`, it tells apart what was measured; where answers end is asked of `Backbone.end_ids`.

    >>> other_ends(Path("base"), "")
    ''

    Args:
        folder: of the base.
        ending: what the prompt template writes behind an answer.
    """

    def read(name: str) -> dict[str, Any]:
        try:
            return read_json(folder / name)
        except FileError:
            return {}

    named = read("generation_config.json").get("eos_token_id")
    ids = named if isinstance(named, list) else [] if named is None else [named]
    token = read("tokenizer_config.json").get("eos_token")
    end = token.get("content") if isinstance(token, dict) else token
    alone = ids in ([], [read("config.json").get("eos_token_id")]) and (not ending or ending.startswith(str(end)))
    return "" if alone else f" ending {ending!r} {ids}"


def _post_processor(path: Path) -> Any:
    """The part of tokenizer.json that adds tokens; the vocabulary beside it, perhaps many megabytes, is not parsed."""
    try:
        text = read_regular_text(path)
        begins = re.search(r'"post_processor"\s*:\s*', text)
        return json.JSONDecoder().raw_decode(text, begins.end())[0] if begins else None
    except (OSError, ValueError, RecursionError):
        return None


def _begins(processor: Any) -> bool:
    if not isinstance(processor, dict):
        return False
    if processor.get("type") == "Sequence":
        parts = processor.get("processors")
        return any(map(_begins, parts if isinstance(parts, list) else ()))
    single = processor.get("single")
    if processor.get("type") == "TemplateProcessing" and isinstance(single, list) and single:
        return isinstance(single[0], dict) and "SpecialToken" in single[0]
    return processor.get("type") in ("BertProcessing", "RobertaProcessing")
