"""Names of everything that can be exchanged, known without importing any of it.

A kind is "strategy", "adaptation", "composition", "format", "embedding", "evaluator" or "sampler". A spec is a name,
optionally with parameters: `anchor_diverse` or `anchor_diverse:objective=facility,diversity=0.3`. What a name stands
for is a frozen dataclass whose fields are its parameters; building one from a spec checks names and types: a typo is an
error.

Other packages add theirs through entry points of the group `merge_advisor.<kind>`, for example

    [project.entry-points."merge_advisor.strategy"]
    mine = "my_package.mine:Mine"
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from typing import Any, get_type_hints

from merge_advisor.errors import SpecError

BUILTIN: dict[str, dict[str, str]] = {
    "strategy": {
        "additive": "merge_advisor.select.additive:Additive",
        "all": "merge_advisor.select.everything:All",
        "anchor_diverse": "merge_advisor.select.anchor_diverse:AnchorDiverse",
        "anchor_random": "merge_advisor.select.anchor_random:AnchorRandom",
        "best_single": "merge_advisor.select.best_single:BestSingle",
        "cluster": "merge_advisor.select.cluster:Cluster",
        "gradient": "merge_advisor.select.gradient:Gradient",
        "random": "merge_advisor.select.at_random:Random",
        "rerank": "merge_advisor.select.rerank:Rerank",
        "shot_loss": "merge_advisor.select.shot_loss:ShotLoss",
        "text": "merge_advisor.select.text:Text",
        "top_k": "merge_advisor.select.top_k:TopK",
        "weight_kinship": "merge_advisor.select.weight_kinship:WeightKinship",
    },
    "adaptation": {
        "auto": "merge_advisor.adapt.auto:Auto",
        "basis": "merge_advisor.adapt.basis:Basis",
        "coefficients": "merge_advisor.adapt.coefficients:Coefficients",
        "continue": "merge_advisor.adapt.continuing:Continue",
        "mix": "merge_advisor.adapt.mix:Mix",
        "none": "merge_advisor.adapt.unadapted:Unadapted",
        "prompt": "merge_advisor.adapt.prompting:Prompting",
        "shots": "merge_advisor.adapt.shots:ShotsAlone",
    },
    "composition": {
        "breadcrumbs": "merge_advisor.compose.breadcrumbs:Breadcrumbs",
        "dare_linear": "merge_advisor.compose.dare_linear:DareLinear",
        "dare_ties": "merge_advisor.compose.dare_ties:DareTies",
        "della": "merge_advisor.compose.della:Della",
        "exact": "merge_advisor.compose.exact:Exact",
        "linear": "merge_advisor.compose.linear:Linear",
        "lorahub": "merge_advisor.compose.lorahub:LoraHub",
        "magnitude": "merge_advisor.compose.magnitude:Magnitude",
        "model_stock": "merge_advisor.compose.model_stock:ModelStock",
        "slerp": "merge_advisor.compose.slerp:Slerp",
        "svd": "merge_advisor.compose.svd:Svd",
        "task_arithmetic": "merge_advisor.compose.task_arithmetic:TaskArithmetic",
        "ties": "merge_advisor.compose.ties:Ties",
    },
    "format": {
        "lorahub": "merge_advisor.formats.lorahub:LoraHubFormat",
        "mergekit": "merge_advisor.formats.mergekit:MergekitFormat",
        "peft": "merge_advisor.formats.peft:PeftFormat",
    },
    "embedding": {
        "delta_activations": "merge_advisor.embeddings.activations:DeltaActivations",
        "delta_activations_encoder": "merge_advisor.embeddings.activations:DeltaActivationsEncoder",
        "delta_logits": "merge_advisor.embeddings.logits:DeltaLogits",
        "delta_meaning": "merge_advisor.embeddings.meaning:DeltaMeaning",
    },
    "evaluator": {
        "fast": "merge_advisor.evaluators.fast:Fast",
        "lm_eval": "merge_advisor.evaluators.lm_eval_harness:LmEval",
    },
    "sampler": {
        "auto": "merge_advisor.tuning.samplers.auto:AutoSampler",
        "cmaes": "merge_advisor.tuning.samplers.cmaes:CmaEsSampler",
        "gp": "merge_advisor.tuning.samplers.gp:GpSampler",
        "gradient": "merge_advisor.tuning.samplers.gradient:GradientSampler",
        "lorahub": "merge_advisor.tuning.samplers.lorahub:LoraHubSampler",
        "nsga2": "merge_advisor.tuning.samplers.nsga2:Nsga2Sampler",
        "random": "merge_advisor.tuning.samplers.at_random:RandomSampler",
        "tpe": "merge_advisor.tuning.samplers.tpe:TpeSampler",
    },
}


_hints = functools.cache(get_type_hints)
"""Reading them takes longer than all else of a spec."""


def _entry_points(kind: str) -> dict[str, str]:
    from importlib.metadata import entry_points  # 20 ms: only when a name is not ours or all names are asked for

    return {point.name: point.value for point in entry_points(group=f"merge_advisor.{kind}")}


def names(kind: str) -> list[str]:
    """Return the registered names of a kind, sorted, other packages' included.

    >>> names("format")
    ['lorahub', 'mergekit', 'peft']

    Args:
        kind: one of the kinds above.

    Raises:
        KeyError: no such kind.
    """
    return sorted({**_entry_points(kind), **BUILTIN[kind]})


def load(kind: str, name: str) -> type[Any]:
    """Return the class registered under a name, imported now.

    >>> load("strategy", "top_k").__name__
    'TopK'

    Args:
        kind: one of the kinds above.
        name: the name.

    Raises:
        SpecError: no such name; the message lists the known ones.
    """
    # our own names first: no package that is installed may change what a recipe of ours means
    target = BUILTIN[kind].get(name) or _entry_points(kind).get(name)
    if target is None:
        raise SpecError(f"{kind} '{name}' is unknown; choose one of: {', '.join(names(kind))}")
    module, _, attribute = target.partition(":")
    loaded: type[Any] = getattr(importlib.import_module(module), attribute)
    return loaded


def build(kind: str, spec: str) -> Any:
    """Return the object that a spec describes.

    >>> build("strategy", "top_k:centre=true")
    TopK(centre=True)

    Args:
        kind: one of the kinds above.
        spec: `name` or `name:key=value,key=value`; parameters that are left out have their defaults.

    Raises:
        SpecError: unknown name or key, or a value that is not of the parameter's type or range.
    """
    name, _, tail = spec.partition(":")
    cls = load(kind, name.strip())
    hints = _hints(cls) if tail else {}  # type: ignore[arg-type]  # any class is hashable
    fields = {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init and tail}
    values: dict[str, Any] = {}
    for part in filter(None, (piece.strip() for piece in tail.split(","))):
        key, equals, text = part.partition("=")
        key = key.strip()
        if not equals or key not in fields:
            known = ", ".join(fields) or "none"
            raise SpecError(f"{kind} '{spec}': '{part}' is no parameter of {name}; its parameters: {known}")
        values[key] = _parse(kind, spec, key, text.strip(), fields[key])
    try:
        return cls(**values)
    except ValueError as error:
        raise SpecError(f"{kind} '{spec}': {error}") from error


def _parse(kind: str, spec: str, key: str, text: str, wanted: Any) -> Any:
    try:
        if wanted is bool:
            return {"true": True, "false": False}[text.lower()]
        if wanted in (int, float, str):
            return wanted(text)
    except (ValueError, KeyError):
        pass
    else:
        raise TypeError(f"{kind} parameter {key}: a spec can carry bool, int, float and str, not {wanted}")
    raise SpecError(f"{kind} '{spec}': {key}={text!r} is no {wanted.__name__}; correct it, or leave it out")


def summary(kind: str, name: str) -> str:
    """Return the first docstring line of what is registered under a name.

    Args:
        kind: one of the kinds above.
        name: the name.

    Raises:
        SpecError: no such name.
    """
    return (load(kind, name).__doc__ or "").strip().splitlines()[0]
