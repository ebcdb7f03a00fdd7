"""The recipe as modules and weights for LoraHub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from merge_advisor.errors import InputError
from merge_advisor.formats import ModelPlaces
from merge_advisor.json_form import STRICT, VERSION, from_json, to_json
from merge_advisor.types import KIND_NAMES, Recipe

_FILE = "lorahub.json"

_USAGE = (
    "modules and weights are what LoraHub's get_final_weights(weights, modules, cache) takes.",
    "LoraHub itself needs modules of one rank, one alpha and the same target modules; the lines below need one rank:",
    "    from peft import PeftModel",
    "    names = [f'm{i}' for i in range(len(modules))]",
    "    model = PeftModel.from_pretrained(base, modules[0], adapter_name=names[0], revision=revisions[0])",
    "    for n, m, r in zip(names[1:], modules[1:], revisions[1:]): model.load_adapter(m, adapter_name=n, revision=r)",
    "    for layer in [x for x in model.modules() if getattr(x, 'lora_A', None)]:",
    "        w = {n: v * layer.scaling[n] ** 0.5 for n, v in zip(names, weights) if n in layer.lora_A}",
    "        b, a = (sum(v * part[n].weight.data for n, v in w.items()) for part in (layer.lora_B, layer.lora_A))",
    "        layer.get_base_layer().weight.data += (b @ a).T if layer.fan_in_fan_out else b @ a",
    "    merged = model.unload()",
)
"""How to carry the file out: `base` is the base model in memory, the other names are the file's own keys."""


@dataclass(frozen=True, slots=True)
class LoraHubRecipe:
    """What lorahub.json holds; unknown keys are errors.

    >>> text = '{"version": 1, "base_model": "b", "base_revision": null, "modules": [], "usage": [], "weight": []}'
    >>> parse_lorahub(text, "lorahub.json")
    Traceback (most recent call last):
    merge_advisor.errors.InputError: lorahub.json: weight: unknown key; correct it or make the file anew
    """

    __pydantic_config__ = STRICT

    version: int
    base_model: str
    base_revision: str | None
    modules: tuple[str, ...]
    """LoraHub's `lora_module_list`: hub ids or folders, in the order of the weights."""
    revisions: tuple[str | None, ...]
    weights: tuple[float, ...]
    usage: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoraHubFormat:
    """Modules and weights as LoraHub takes them, with the lines of PEFT that merge them.

    >>> from merge_advisor.types import Base, RecipeMember
    >>> member = RecipeMember("a0", "0" * 64, "adapter", "a0", None, 0.5)
    >>> recipe = Recipe(1, Base("base", None, "", "LlamaForCausalLM"), "plain", "exact", None, (member,))
    >>> LoraHubFormat().refusal(recipe)
    'LoraHub adds factors, the composition is exact'
    """

    name: ClassVar[str] = "lorahub"
    writes: ClassVar[str] = _FILE
    runs_with: ClassVar[str] = "LoraHub's get_final_weights, or the lines under its key `usage`"

    def refusal(self, recipe: Recipe) -> str:
        """See `Format.refusal`; LoraHub knows one composition, and one weight a module."""
        if recipe.composition != "lorahub":
            return f"LoraHub adds factors, the composition is {recipe.composition}"
        if recipe.layers:
            return "weights differ by layer group, LoraHub knows one weight a module"
        if recipe.rank is not None:
            return f"the merged adapter is cut to rank {recipe.rank}, LoraHub keeps the rank of its modules"
        other = next((member for member in recipe.members if member.kind != "adapter"), None)
        return f"{other.id} is {KIND_NAMES[other.kind]}, LoraHub adds the factors of LoRAs" if other else ""

    def write(self, recipe: Recipe, places: ModelPlaces, folder: Path) -> None:
        """See `Format.write`."""
        if why := self.refusal(recipe):
            raise InputError(f"{folder / _FILE}: {why}; write another format")
        text = to_json(
            LoraHubRecipe(
                version=VERSION,
                base_model=places.base,
                base_revision=places.base_revision,
                modules=tuple(places.members[member.id] for member in recipe.members),
                revisions=tuple(places.revisions.get(member.id) for member in recipe.members),
                weights=tuple(member.weight for member in recipe.members),
                usage=_USAGE,
            )
        )
        parse_lorahub(text, _FILE)  # what is written can be read again, or nothing is written
        (folder / _FILE).write_text(text, encoding="utf-8")


def parse_lorahub(text: str, where: str) -> LoraHubRecipe:
    """Return what a lorahub.json holds, checked strictly.

    Args:
        text: of the file.
        where: its name, for messages.

    Raises:
        InputError: not JSON, an unknown key, or not one weight and one revision a module.
    """
    recipe = from_json(LoraHubRecipe, text, where)
    if not recipe.modules or not len(recipe.modules) == len(recipe.weights) == len(recipe.revisions):
        raise InputError(f"{where}: not one weight and one revision a module; make it anew")
    return recipe
