"""Whether a base's tokenizer puts a token of its own before a text: read from its files, without any library."""

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


def _post_processor(path: Path) -> Any:
    """The part of tokenizer.json that adds tokens; the vocabulary beside it, perhaps many megabytes, is not parsed."""
    try:
        text = read_regular_text(path)
        begins = re.search(r'"post_processor"\s*:\s*', text)
        return json.JSONDecoder().raw_decode(text, begins.end())[0] if begins else None
    except (OSError, ValueError):
        return None


def _begins(processor: Any) -> bool:
    if not isinstance(processor, dict):
        return False
    if processor.get("type") == "Sequence":
        return any(map(_begins, processor.get("processors", ())))
    single = processor.get("single")
    if processor.get("type") == "TemplateProcessing" and isinstance(single, list) and single:
        return "SpecialToken" in single[0]
    return processor.get("type") in ("BertProcessing", "RobertaProcessing")
