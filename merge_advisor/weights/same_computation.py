"""Whether two configurations make the same computation of the same weights, as transformers reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from merge_advisor.errors import PoolError
from merge_advisor.plain_text import short_name
from merge_advisor.weights.by_transformers import read_config
from merge_advisor.weights.checkpoint import config_meaning
from merge_advisor.weights.files import read_json

_CHANGES_NOTHING = re.compile(
    # where it comes from, what stores it, and what it is asked to return
    r"_.*|name_or_path|architectures|model_type|transformers_version|(torch_)?dtype|auto_map|quantization_config"
    r"|.*use_cache|cache_implementation|output_\w+|return_dict\w*|gradient_checkpointing|attn_implementation"
    # how it began and was trained
    r"|initializer_\w+|\w*init(_std|_range|_scale)?|\w*(dropout|drop|pdrop|layerdrop|drop_path_rate)(_rate|_prob|_p)?"
    r"|router_(aux|z)_loss_coef|router_jitter_noise|time_step_(min|max|floor|init_scheme)|rescale_prenorm_residual"
    r"|neftune_noise_alpha|classifier_\w+|summary_\w+"
    # tokens, lengths, and how they are generated: rows are cut and ended by the base's own
    r"|\w*_token_(id|ids|index)|vocab_size|vocab_size_per_layer_input|max_position_embeddings|n_positions|n_ctx"
    r"|max_sequence_length|seq_length|tokenizer_class|prefix|tie_word_embeddings"
    r"|id2label|label2id|num_labels|problem_type|finetuning_task|task_specific_params"
    # the same sums in other pieces, and what other settings or the shapes say again
    r"|pretraining_tp|chunk_size_feed_forward|reorder_and_upcast_attn|slow_but_exact|use_mambapy|use_associative_scan"
    r"|max_window_layers|use_sliding_window|no_rope_layer_interval|original_max_position_embeddings|n_inner"
)
"""Settings that do not change what a model computes of tokens within its length."""
_ROPE = "rope_parameters"
"""A setting all of whose parts count: the length that a scaling begins at is no limit but a number of its formula."""


def check_same_computation(folder: Path, base_path: Path) -> None:
    """Refuse a checkpoint whose configuration makes another model of the base's weights: rope, heads, activation, ...

    Its weights would be measured on the base's configuration, which all merges have. Both are read by transformers, so
    that older forms and defaults compare equal.

    Args:
        folder: the checkpoint's folder.
        base_path: the base's folder.

    Raises:
        PoolError: it cannot be read, or a setting differs, named with both values.
    """
    try:
        own, base = (read_json(place / "config.json") for place in (folder, base_path))
        if config_meaning(own) == config_meaning(base):
            return
        read, of_base = read_config(folder), read_config(base_path)
    except Exception as error:  # on a configuration that is wrong in any way, transformers may raise anything
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise PoolError(f"config.json: cannot be read as a model's ({reason}); fetch it again") from error
    different = _difference(_plain(read), _plain(of_base), _fields(of_base))
    if different is not None:
        name, theirs, ours = different
        raise PoolError(
            f"config.json: {short_name(name)} is {short_name(str(theirs))}, the base's is {short_name(str(ours))}, "
            "which makes another model of the same weights; give the base it was trained on, or correct config.json"
        )


def _plain(config: Any) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=str))
    return plain


def _fields(config: Any) -> set[str]:
    """What the classes of a configuration know by name, below it too: anything else in a file changes nothing."""
    parts = [config, *(value for value in vars(config).values() if hasattr(value, "to_dict"))]
    return {name for part in parts for name in getattr(type(part), "__dataclass_fields__", vars(part))}


def _difference(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], known: AbstractSet[str], *, in_rope: bool = False
) -> tuple[str, Any, Any] | None:
    """The first setting that differs, with both values."""
    for key in sorted((theirs.keys() | ours.keys()) & known):
        one, other = theirs.get(key), ours.get(key)
        if one == other or (not in_rope and _CHANGES_NOTHING.fullmatch(key)):
            continue
        if not (isinstance(one, dict) and isinstance(other, dict)):
            return key, one, other
        names = known if "model_type" in other else one.keys() | other.keys()
        if inside := _difference(one, other, names, in_rope=in_rope or key == _ROPE):
            return (f"{key}.{inside[0]}", *inside[1:])
    return None
