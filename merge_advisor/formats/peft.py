"""The merged LoRA as a PEFT folder."""

from __future__ import annotations

import html
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from merge_advisor import registry
from merge_advisor.errors import InputError
from merge_advisor.formats import ModelPlaces
from merge_advisor.plain_yaml import escaped_yaml
from merge_advisor.regular_files import open_regular
from merge_advisor.types import KIND_NAMES, Recipe
from merge_advisor.weights.adapter_writing import write_adapter

_FOLDER = "adapter"

_SEQ2SEQ = re.compile(
    r"(?!T5Gemma)(MT5|UMT5|LongT5|Switch|T5|MBart|PLBart|Bart|BigBirdPegasus|PegasusX?|LED|Marian|M2M100|NllbMoe|FSMT|"
    r"Blenderbot(Small)?|X?ProphetNet|MVP|Mvp)\w*(ConditionalGeneration|MTModel)"
)
"""Architectures of encoder-decoder language models; multimodal decoders are called ForConditionalGeneration as well."""

_CARD_HEAD = 1 << 16
"""Characters read of a model card: its front matter comes first."""


@dataclass(frozen=True, slots=True)
class PeftFormat:
    """The merged LoRA as an adapter folder in float32, for PEFT and servers of adapters.

    >>> from merge_advisor.types import Base, RecipeMember
    >>> member = RecipeMember("a0", "0" * 64, "adapter", "a0", None, 0.5)
    >>> recipe = Recipe(1, Base("base", None, "", "LlamaForCausalLM"), "plain", "exact", None, (member,))
    >>> PeftFormat().refusal(recipe)
    ''
    """

    name: ClassVar[str] = "peft"
    writes: ClassVar[str] = f"{_FOLDER}/"
    runs_with: ClassVar[str] = "PeftModel.from_pretrained(base, 'adapter')"

    def refusal(self, recipe: Recipe) -> str:
        """See `Format.refusal`; an adapter holds factors, so the merge must have them or be cut to a rank."""
        name = recipe.composition.partition(":")[0].strip()
        if not registry.load("composition", name).low_rank and recipe.rank is None:
            return f"the composition {name} gives no LoRA factors; merging with `adapter=True` writes an approximation"
        if other := next((member for member in recipe.members if member.kind != "adapter"), None):
            return f"{other.id} is {KIND_NAMES[other.kind]}, its change has no LoRA factors"
        if not any(member.weight for member in recipe.members):
            return "all weights are 0, the merge is the base"
        return ""

    def write(self, recipe: Recipe, places: ModelPlaces, folder: Path) -> None:
        """See `Format.write`.

        Raises:
            InputError: `refusal` is not empty, `adapter/` is there already, or the merge changes nothing.
        """
        if why := self.refusal(recipe):
            raise InputError(f"{folder / _FOLDER}: {why}; write another format")
        write_adapter(
            folder / _FOLDER,
            places.merged,
            base_name=recipe.base.id,
            task_type=task_type(recipe.base.architecture),
            dtype="float32",
            texts={"README.md": model_card(recipe, places)},
            base_shapes=places.shapes,
        )


def task_type(architecture: str) -> str:
    """Return PEFT's task type of a language model by the name of its architecture.

    Args:
        architecture: first entry of `architectures` in config.json.

    >>> task_type("T5ForConditionalGeneration"), task_type("LlamaForCausalLM")
    ('SEQ_2_SEQ_LM', 'CAUSAL_LM')
    """
    return "SEQ_2_SEQ_LM" if _SEQ2SEQ.fullmatch(architecture) else "CAUSAL_LM"


def auto_class(architecture: str) -> str:
    """Return the name of the transformers class that loads a language model, by its architecture.

    Args:
        architecture: first entry of `architectures` in config.json.

    >>> auto_class("T5ForConditionalGeneration"), auto_class("LlamaForCausalLM")
    ('AutoModelForSeq2SeqLM', 'AutoModelForCausalLM')
    """
    return "AutoModelForSeq2SeqLM" if task_type(architecture) == "SEQ_2_SEQ_LM" else "AutoModelForCausalLM"


def model_card(recipe: Recipe, places: ModelPlaces) -> str:
    """Return README.md of the merged adapter; names from elsewhere are escaped as text.

    Args:
        recipe: of the merge.
        places: where its members are, for their licences.
    """
    import yaml

    front = {"base_model": recipe.base.id, "library_name": "peft", "tags": ["merge-advisor", "lora", "merge"]}
    rows = [
        f"| {escape(member.id)} | {escape(member.source)} | {escape(member.revision or '')} | "
        f"{escape(licence_of(places.members[member.id]))} | {member.weight:.6g} |"
        for member in recipe.members
    ]
    meaning = registry.load("composition", recipe.composition.partition(":")[0].strip()).weight_means
    lost = f" (relative error {places.rank_error:.3g} of the Frobenius norm)"
    cut = "" if recipe.rank is None else f" The result is cut to rank {recipe.rank} by truncated SVD{lost}."
    factors = ", ".join(f"{factor:.6g}" for factor in recipe.layers)
    groups = f" By layer group, first to last, all weights are times {factors}." if factors else ""
    kind = auto_class(recipe.base.architecture)
    names = [recipe.base.id] if recipe.base.revision is None else [recipe.base.id, recipe.base.revision]
    # a backtick in a name would end the code block
    base = ", revision=".join(repr(name).replace("`", "\\x60") for name in names)
    return "\n".join([
        "---", escaped_yaml(yaml.safe_dump(front, allow_unicode=True)).strip(), "---",
        "# A merge of LoRA adapters", "",
        f"Merged by merge-advisor for {escape(recipe.base.id)} (prompt template: {escape(recipe.template)}).", "",
        "| member | source | revision | licence | weight |", "|---|---|---|---|---|", *rows, "",
        f"Composition `{recipe.composition}`; a weight is {meaning}.{groups}{cut}", "",
        "The licences of all members apply to this merge; where none is listed, read the member's own model card.", "",
        "```python",
        "from peft import PeftModel",
        f"from transformers import {kind}", "",
        f"base = {kind}.from_pretrained({base})",
        'model = PeftModel.from_pretrained(base, "adapter")  # this folder',
        "```", "",
    ])  # fmt: skip


def licence_of(place: str) -> str:
    """Return `license` from the head of a folder's model card; "" for a hub id, or where the card names none.

    Args:
        place: hub id or absolute folder.
    """
    if not Path(place).is_absolute():  # a hub id: a folder that happens to lie here under that name is another model
        return ""
    try:
        with io.TextIOWrapper(open_regular(Path(place) / "README.md"), encoding="utf-8", errors="replace") as stream:
            head = stream.read(_CARD_HEAD)
    except OSError:
        return ""
    # the first such line of the front matter, without parsing YAML of unknown origin
    match = re.match(r"---\r?\n(?:(?!---).*\n)*?license:[ \t]*([^\r\n]{1,80})", head)
    return match[1].strip().strip("'\"") if match else ""


def escape(text: str) -> str:
    r"""Return text of unknown origin as one line in which nothing is Markdown or HTML markup.

    Args:
        text: any.

    >>> escape("<b>*a*</b>")
    '&lt;b&gt;\\*a\\*&lt;/b&gt;'
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", html.escape(line))
