"""What a mergekit configuration of ours may hold: a strict schema, its YAML, and what is refused of one.

mergekit's models accept unknown keys silently, so that a typo would merge something else: what is written or run here
has passed `MergekitConfig` first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from merge_advisor.errors import InputError
from merge_advisor.json_form import STRICT, from_json
from merge_advisor.plain_yaml import escaped_yaml

RUN_BY = "mergekit-yaml mergekit.yaml OUT --lora-merge-cache LORAS --lora-merge-dtype float32  (in the run folder)"
"""The command that carries one out, by hand."""


@dataclass(frozen=True, slots=True)
class ModelPath:
    """A folder or hub id, as mergekit names it.

    >>> ModelPath("org/model", "main")
    ModelPath(path='org/model', revision='main')
    """

    __pydantic_config__ = STRICT

    path: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A model, optionally with a LoRA adapter on it: the mapping form, which takes any name.

    >>> ModelReference(ModelPath("base"), ModelPath("my adapters/a+b")).lora.path
    'my adapters/a+b'
    """

    __pydantic_config__ = STRICT

    model: ModelPath
    lora: ModelPath | None = None


@dataclass(frozen=True, slots=True)
class ConditionalParameter:
    """A value for the parameters whose names contain `filter`; without one, for all others.

    >>> ConditionalParameter(0.5, "model.layers.0.")
    ConditionalParameter(value=0.5, filter='model.layers.0.')
    """

    __pydantic_config__ = STRICT

    value: float
    filter: str | None = None


@dataclass(frozen=True, slots=True)
class MemberParameters:
    """The parameters of one model; which of them are needed depends on the method.

    >>> MemberParameters(weight=0.5, density=0.2).gamma is None
    True
    """

    __pydantic_config__ = STRICT

    weight: float
    density: float | None = None
    gamma: float | None = None


@dataclass(frozen=True, slots=True)
class MergekitMember:
    """One entry of `models`.

    >>> MergekitMember("base+adapter", MemberParameters(0.5)).parameters.weight
    0.5
    """

    __pydantic_config__ = STRICT

    model: str | ModelReference
    parameters: MemberParameters | None = None


@dataclass(frozen=True, slots=True)
class MergeParameters:
    """The parameters of the merge; which of them are needed depends on the method. `int8_mask` never.

    >>> MergeParameters(normalize=True, lambda_=1.5).t is None
    True
    """

    __pydantic_config__ = STRICT

    normalize: bool | None = None
    """Whether the sum is divided by the weights of the models that agree."""
    lambda_: float | tuple[ConditionalParameter, ...] | None = None
    """Factor on the whole change, `lambda` in the file."""
    filter_wise: bool | None = None
    t: float | None = None


@dataclass(frozen=True, slots=True)
class MergekitConfig:
    """A mergekit configuration of the kinds written here, in float32.

    >>> member = MergekitMember("base+adapter", MemberParameters(0.5))
    >>> config = MergekitConfig("task_arithmetic", "base", (member,), MergeParameters(normalize=False), "float32")
    >>> parse_mergekit(to_yaml(config), "mergekit.yaml") == config
    True
    """

    __pydantic_config__ = STRICT

    merge_method: Literal["task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties", "model_stock", "slerp"]
    base_model: str | ModelReference
    models: tuple[MergekitMember, ...]
    parameters: MergeParameters
    dtype: Literal["float32"]


_REQUIRED: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "task_arithmetic": (frozenset({"weight"}), frozenset({"normalize"})),
    "ties": (frozenset({"weight", "density"}), frozenset({"normalize"})),
    "breadcrumbs": (frozenset({"weight", "density", "gamma"}), frozenset({"normalize"})),
    "breadcrumbs_ties": (frozenset({"weight", "density", "gamma"}), frozenset({"normalize"})),
    "model_stock": (frozenset(), frozenset({"filter_wise"})),
    "slerp": (frozenset(), frozenset({"t"})),
}
"""Method -> parameters of each of its models and of the merge that must be there: nothing is left to mergekit's
defaults, which may change."""
TAKE_LAMBDA = frozenset({"task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties"})
"""Methods that take `lambda`."""


def to_yaml(config: MergekitConfig) -> str:
    """Return the YAML of a configuration; equal ones give the same bytes.

    Args:
        config: any.
    """
    import yaml

    # the longest line there is: a folded one would break paths in two
    text: str = yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True, width=2**20)
    return f"# {RUN_BY}\n{escaped_yaml(text)}"


def _plain(value: Any) -> Any:
    """Return the schema's values as what YAML holds, without those that are None."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        items = {key: _plain(getattr(value, key)) for key in value.__dataclass_fields__}
        return {key.rstrip("_"): item for key, item in items.items() if item is not None}  # lambda_ is lambda
    return value


def parse_mergekit(text: str, where: str) -> MergekitConfig:
    """Return what a configuration holds, checked strictly.

    Args:
        text: YAML.
        where: name of the file, for messages.

    Raises:
        InputError: not YAML, or not this kind of merge: an unknown key, another method or dtype, a weight that is no
            finite number, no models.
    """
    import yaml

    try:
        read = yaml.safe_load(text)
        if isinstance(read, dict) and isinstance(read.get("parameters"), dict) and "lambda" in read["parameters"]:
            read["parameters"]["lambda_"] = read["parameters"].pop("lambda")  # no name for a field of Python
        as_json = json.dumps(read, allow_nan=False)  # the strict reader of all our files reads JSON
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: not a mergekit configuration ({reason}); make it anew") from error
    config = from_json(MergekitConfig, as_json, where)
    if not config.models:
        raise InputError(f"{where}: models: there are none; make it anew")
    _check_parameters(config, where)
    return config


def _check_parameters(config: MergekitConfig, where: str) -> None:
    """Refuse parameters that the method lacks, or that it does not know."""
    of_model, of_merge = _REQUIRED[config.merge_method]
    if config.parameters.normalize and config.merge_method != "ties":
        raise InputError(f"{where}: parameters.normalize: {config.merge_method} is written without; make it anew")
    groups: list[tuple[str, Any, frozenset[str]]] = [("parameters", config.parameters, of_merge)]
    groups += [(f"models.{i}.parameters", member.parameters, of_model) for i, member in enumerate(config.models)]
    for place, values, required in groups:
        given = {key.rstrip("_") for key, value in _fields(values) if value is not None}
        takes_lambda = values is config.parameters and config.merge_method in TAKE_LAMBDA
        extra = given - required - ({"lambda"} if takes_lambda else set())
        for what, names in (("needs", required - given), ("has no", extra)):
            if names:
                raise InputError(f"{where}: {place}: {config.merge_method} {what} {min(names)}; make it anew")


def _fields(values: Any) -> list[tuple[str, Any]]:
    return [] if values is None else [(key, getattr(values, key)) for key in values.__dataclass_fields__]


def names_folders_only(config: MergekitConfig) -> bool:
    """Tell whether every model of a configuration is a folder on this machine.

    Args:
        config: any.
    """
    return all(Path(path).is_dir() for path in _paths(config))


def _paths(config: MergekitConfig) -> list[str]:
    paths: list[str] = []
    for reference in (config.base_model, *(member.model for member in config.models)):
        if isinstance(reference, str):
            paths += [part.partition("@")[0] for part in reference.split("+")]
        else:
            paths += [part.path for part in (reference.model, reference.lora) if part is not None]
    return paths
