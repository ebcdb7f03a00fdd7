"""The recipe as a mergekit configuration (`mergekit-yaml`): which recipes mergekit can reproduce, and in what words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from merge_advisor import registry
from merge_advisor.errors import InputError
from merge_advisor.formats import ModelPlaces
from merge_advisor.formats.mergekit_schema import (
    RUN_BY,
    TAKE_LAMBDA,
    ConditionalParameter,
    MemberParameters,
    MergekitConfig,
    MergekitMember,
    MergeParameters,
    ModelPath,
    ModelReference,
    parse_mergekit,
    to_yaml,
)
from merge_advisor.formats.peft import task_type
from merge_advisor.types import Recipe
from merge_advisor.weights.naming import block_of, count_blocks, layer_factor

_FILE = "mergekit.yaml"

# what mergekit's string form would take apart, or read as something else
_UNSAFE = re.compile(r"[+@\"\s]|^$")


@dataclass(frozen=True, slots=True)
class MergekitFormat:
    """A mergekit configuration: the deterministic compositions, on `base+adapter` references and checkpoints.

    The tokenizer is not named: without `tokenizer_source` mergekit copies the base's as it is, with it it would cut or
    reorder embeddings whose rows are more than the tokenizer's tokens.

    Where entries are trimmed or voted on, mergekit sees (base + ΔW) - base, rounded to float32: an entry that ties the
    threshold or a vote within that rounding may fall the other way.

    >>> from merge_advisor.types import Base, RecipeMember
    >>> member = RecipeMember("a0", "0" * 64, "adapter", "a0", None, 0.5)
    >>> recipe = Recipe(1, Base("base", None, "", "LlamaForCausalLM"), "plain", "dare_ties", None, (member,))
    >>> MergekitFormat().refusal(recipe)
    'dare_ties draws at random, mergekit would draw other numbers'
    """

    name: ClassVar[str] = "mergekit"
    writes: ClassVar[str] = _FILE
    runs_with: ClassVar[str] = RUN_BY

    def refusal(self, recipe: Recipe) -> str:
        """See `Format.refusal`; mergekit has no random draws, factor sums or ranks that equal ours."""
        settings = _settings(recipe)
        if isinstance(settings, str):
            return settings
        if _MIXTURE.search(recipe.base.architecture):
            return f"mergekit takes the experts of {recipe.base.architecture} by other names than its files have"
        if recipe.base.architecture.endswith(_WITH_IMAGES) and task_type(recipe.base.architecture) == "CAUSAL_LM":
            return f"mergekit misses weights of {recipe.base.architecture}, which reads more than text"
        if recipe.base.architecture == _NEOX and any(member.kind != "checkpoint" for member in recipe.members):
            return (
                "mergekit asks a GPT-NeoX for attention.masked_bias, which it lacks once an adapter is merged into it"
            )
        if recipe.rank is not None:
            return f"the merged adapter is cut to rank {recipe.rank}, mergekit keeps every rank"
        if recipe.layers and settings.method not in TAKE_LAMBDA:
            return f"weights differ by layer group, mergekit's {settings.method} takes none"
        return ""

    def write(self, recipe: Recipe, places: ModelPlaces, folder: Path) -> None:
        """See `Format.write`."""
        if why := self.refusal(recipe):
            raise InputError(f"{folder / _FILE}: {why}; write another format")
        text = to_yaml(mergekit_config(recipe, places))
        parse_mergekit(text, _FILE)  # what is written can be read again, or nothing is written
        (folder / _FILE).write_text(text, encoding="utf-8")


_MIXTURE = re.compile(r"moe|mixtral|dbrx|jamba|gptoss|deepseekv[23]|llama4", re.IGNORECASE)
"""Architectures with experts: transformers keeps all of a layer in one tensor, and mergekit writes none of them."""
_WITH_IMAGES = "ForConditionalGeneration"
"""What architectures that read images or sound are called; encoder-decoders as well, which mergekit merges."""
_NEOX = "GPTNeoXForCausalLM"
"""transformers, by which mergekit merges an adapter into a base, no longer writes a buffer that mergekit requires."""


@dataclass(frozen=True, slots=True)
class _Settings:
    """A composition in mergekit's words."""

    method: str
    merge: MergeParameters
    member: dict[str, float] | None = None
    """Parameters of each model beside its weight; None: the method takes no weights."""


def _settings(recipe: Recipe) -> _Settings | str:
    """Return the composition in mergekit's words, or why there are none."""
    rule: Any = registry.build("composition", recipe.composition)
    weights = [member.weight for member in recipe.members if member.weight]
    if rule.name in ("exact", "task_arithmetic"):
        return _Settings("task_arithmetic", MergeParameters(normalize=False), {})
    if rule.name == "magnitude":  # mergekit's breadcrumbs without outliers
        return _Settings("breadcrumbs", MergeParameters(normalize=False), {"density": rule.density, "gamma": 0.0})
    if rule.name == "breadcrumbs":
        if rule.consensus == "count":
            return "it counts members for a sign, mergekit adds them up"
        method = "breadcrumbs" if rule.consensus == "none" else "breadcrumbs_ties"
        member = {"density": rule.density, "gamma": rule.gamma}
        return _Settings(method, MergeParameters(normalize=False), member)
    if rule.name == "ties":
        return _ties(rule, weights)
    if rule.name == "model_stock":
        return _model_stock(rule, weights)
    if rule.name == "slerp":
        return _slerp(weights)
    if not rule.deterministic:
        return f"{rule.name} draws at random, mergekit would draw other numbers"
    return f"mergekit adds weight deltas, the composition is {rule.name}"


def _ties(rule: Any, weights: Sequence[float]) -> _Settings | str:
    if rule.sign == "count":
        return "it counts members for a sign, mergekit adds them up"
    if not rule.normalize:
        return _Settings("ties", MergeParameters(normalize=False), {"density": rule.density})
    if any(weight < 0 for weight in weights):
        return "mergekit divides by the sum of the weights that agree, which means nothing where some are negative"
    total = math.fsum(weights)
    merge = MergeParameters(normalize=True, lambda_=None if total == 1 else total)
    return _Settings("ties", merge, {"density": rule.density})


def _model_stock(rule: Any, weights: Sequence[float]) -> _Settings | str:
    if len(weights) < 2:
        return "mergekit's model_stock takes two models or more"
    if any(abs(weight * len(weights) - 1) > 1e-6 for weight in weights):
        return f"mergekit's model_stock knows no weights: only weights of 1/{len(weights)} each are the same there"
    return _Settings("model_stock", MergeParameters(filter_wise=rule.filter_wise))


def _slerp(weights: Sequence[float]) -> _Settings | str:
    if len(weights) != 2:
        return "mergekit's slerp takes two models"
    if min(weights) < 0 or abs(math.fsum(weights) - 1) > 1e-6:
        return "mergekit's slerp goes from one model to the other: only weights that sum to 1 are the same there"
    return _Settings("slerp", MergeParameters(t=weights[1] / math.fsum(weights)))


def mergekit_config(recipe: Recipe, places: ModelPlaces) -> MergekitConfig:
    """Return a recipe as mergekit's configuration.

    Args:
        recipe: one that `MergekitFormat.refusal` accepts.
        places: where its models are.
    """
    settings = _settings(recipe)
    assert not isinstance(settings, str)
    base = ModelPath(places.base, places.base_revision)
    members = []
    for member in recipe.members:
        if settings.member is None and not member.weight:
            continue  # a method without weights would count it like the others
        place = ModelPath(places.members[member.id], places.revisions.get(member.id))
        reference = ModelReference(base, place) if member.kind != "checkpoint" else ModelReference(place)
        own = None if settings.member is None else MemberParameters(member.weight, **settings.member)
        members.append(MergekitMember(_shortest(reference), own))
    first = members[0].model if settings.method == "slerp" else _shortest(ModelReference(base))
    merge = settings.merge
    if recipe.layers:
        merge = replace(merge, lambda_=_by_block(recipe.layers, places, cast("float | None", merge.lambda_)))
    return MergekitConfig(
        merge_method=cast("Any", settings.method),
        base_model=first,
        models=tuple(members),
        parameters=merge,
        dtype="float32",
    )


def _by_block(layers: Sequence[float], places: ModelPlaces, total: float | None) -> tuple[ConditionalParameter, ...]:
    """Return `lambda` block by block, found by the beginning of the names that end with the block's number."""
    scale = 1.0 if total is None else total
    count = count_blocks(places.shapes)
    blocks = {block: layer_factor(block[0], layers, count) for name in places.shapes if (block := block_of(name))}
    ordered = sorted(blocks.items(), key=lambda item: (item[0][0].rstrip("0123456789."), item[0][1]))
    return (
        *(ConditionalParameter(scale * factor, prefix) for (prefix, _), factor in ordered),
        ConditionalParameter(scale),
    )


def _shortest(reference: ModelReference) -> str | ModelReference:
    """Return the string form people know, `base@revision+adapter@revision`, where mergekit reads it back as it was."""
    parts = [part for part in (reference.model, reference.lora) if part is not None]
    names = [text for part in parts for text in (part.path, part.revision) if text is not None]
    if any(_UNSAFE.search(name) for name in names):
        return reference
    return "+".join(part.path if part.revision is None else f"{part.path}@{part.revision}" for part in parts)
