"""The values that flow from a task file and a pool to a score: frozen, with a digest and a strict JSON form.

Nothing here computes; nothing here imports more than the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from merge_advisor.json_form import STRICT, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable

SHOTS_LORA = "shots_lora"
"""Id of the adapter finetuned on the shots: a candidate like any other, and a row of every score table."""
RESIDUAL = "residual"
"""Id of an adapter that was trained on top of a merge; it means something beside that merge alone."""
TRAINED = (SHOTS_LORA, RESIDUAL)
"""Ids of what is trained on the rows; each is a folder of the run folder."""
ICL = "icl"
"""Label of the base with examples in its prompt, in every score table, and name of a control of a benchmark."""

Kind = Literal["adapter", "checkpoint", "dense"]
KIND_NAMES: dict[Kind, str] = {"adapter": "a LoRA", "checkpoint": "a checkpoint", "dense": "an adapter of another kind"}
"""What messages call a candidate of each kind."""
Role = Literal["anchor", "partner", "trained"]
"""The first of the pool's members, a further one, or what was trained on the task's rows."""
LossKind = Literal["loss", "choices"]
"""A loss of a row: that of its output, nats per token, or the cross-entropy over its choices, nats."""
ChooseBy = Literal["auto", "loss", "choices"]
"""What members and weights are chosen by; auto takes the choices where every row has them, as the metric does."""


Turn = tuple[str, str]
"""Who speaks, "system", "user" or "assistant", and what is said."""


@dataclass(frozen=True, slots=True)
class Row:
    """One example of a task.

    >>> Row("2 + 2", "4").digest[:8]
    'b07d0a89'
    """

    __pydantic_config__ = STRICT

    input: str
    """What the model is asked, before the prompt template."""
    output: str
    """The wanted answer, byte for byte; empty of an unlabelled row."""
    choices: tuple[str, ...] | None = None
    """The answers to choose among, `output` one of them; None for a free answer."""
    turns: tuple[Turn, ...] | None = field(default=None, metadata={"json": "if set"})
    """Of a chat the turns before the answer, which `input` holds as one text; None of a user's turn alone."""
    answers: tuple[str, ...] | None = field(default=None, metadata={"json": "if set"})
    """All answers that count as right, `output` the first of them; None where it is the only one."""
    place: str | None = field(default=None, compare=False, repr=False, metadata={"json": "if set"})
    """The file it stands in and the line or number there, for messages; no part of what the row is."""

    @property
    def digest(self) -> str:
        """Sha256 of all but the place: the row's identity in splits, caches and reports."""
        # turns and answers only where there are some: digests from before there were any stay valid
        turns, answers = [self.turns] if self.turns else [], [{"answers": self.answers}] if self.answers else []
        return digest_of([self.input, self.output, self.choices, *turns, *answers])

    @property
    def called(self) -> str:
        """What messages call it: its place, or the beginning of its input where it has none.

        >>> Row("2 + 2", "4", place="sums.jsonl:7").called, Row("2 + 2", "4").called
        ('sums.jsonl:7', "row '2 + 2'")
        """
        return self.place or f"row {self.input[:40]!r}"

    @property
    def right(self) -> tuple[str, ...]:
        """All answers that count as right, `output` first.

        >>> Row("Who?", "Ada", answers=("Ada", "Ada Lovelace")).right, Row("2 + 2", "4").right
        (('Ada', 'Ada Lovelace'), ('4',))
        """
        return self.answers or (self.output,)

    @property
    def plain_input(self) -> str:
        """Its input, white space made one blank: rows of one such input are never in two parts of a split."""
        return " ".join(self.input.split())

    @property
    def asked(self) -> str | tuple[Turn, ...]:
        """What a template makes a prompt of."""
        return self.turns or self.input

    @property
    def labelled(self) -> bool:
        """Whether its output is known; one that is not can be trained on by what a model says, and judges nothing."""
        return bool(self.output)

    def without_output(self) -> Row:
        """Return the row as an unlabelled one."""
        return replace(self, output="", answers=None)


BACKWARD = 3
"""Forward passes that one with its backward pass counts as."""
CHOOSING = 20
"""Rows that choose members and weights, unless there are more tuning rows: more cost more than they tell."""


def more_to_choose(tuning: int) -> int:
    """Return how many of the shots choose beside so many tuning rows, at most.

    >>> more_to_choose(8), more_to_choose(30)
    (12, 0)

    Args:
        tuning: how many tuning rows there are.
    """
    return max(0, CHOOSING - tuning)


@dataclass(frozen=True, slots=True)
class Task:
    """A task, its rows split three ways; no row is in two parts.

    >>> task = Task("sums", (Row("1 + 1", "2"),), (Row("1 + 2", "3"),), (Row("2 + 2", "4"),))
    >>> [row.output for row in task.choosing], [row.output for row in task.choosing_among(["a", "shots_lora"])]
    (['3', '2'], ['3'])
    """

    __pydantic_config__ = STRICT

    name: str
    shots: tuple[Row, ...]
    """Rows the task LoRA is finetuned on."""
    tuning: tuple[Row, ...]
    """Rows that the LoRA of the shots was not finetuned on. Empty only where there are too few rows."""
    heldout: tuple[Row, ...]
    """Rows used for scoring only."""

    @property
    def choosing(self) -> tuple[Row, ...]:
        """The rows that choose among the pool, which has seen none: the tuning rows, and shots up to `CHOOSING`."""
        return self.tuning + self.shots[: more_to_choose(len(self.tuning))]

    def choosing_among(self, members: Iterable[str]) -> tuple[Row, ...]:
        """Return the choosing rows; where `shots_lora` is a member, those it was not finetuned on, if there are any.

        Args:
            members: ids.
        """
        return self.tuning if self.tuning and any(name in TRAINED for name in members) else self.choosing

    @property
    def digest(self) -> str:
        """Sha256 over the digests of the rows, by part."""
        return digest_of([[row.digest for row in part] for part in (self.shots, self.tuning, self.heldout)])


@dataclass(frozen=True, slots=True)
class Base:
    """The base model all candidates of a pool were finetuned from.

    >>> Base("org/name", "0" * 40, "d1", "LlamaForCausalLM").id
    'org/name'
    """

    __pydantic_config__ = STRICT

    id: str
    """What the user named: a hub id, or the folder's or file's own name (no path of one machine)."""
    revision: str | None
    """Commit of the hub snapshot; None for a folder or a file."""
    digest: str
    """Sha256 over configuration, tokenizer and weights."""
    architecture: str
    """First entry of `architectures` in config.json, e.g. "LlamaForCausalLM"."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model of the pool that fits the base.

    >>> Candidate("law", "adapter", "adapters/law", licence="apache-2.0").kind
    'adapter'
    """

    __pydantic_config__ = STRICT

    id: str
    """Unique in the pool; printable, no path separators at its ends, never "..": see `pool.check_id`."""
    kind: Kind
    path: str = field(metadata={"json": False})
    """Folder it is read from on this machine."""
    fingerprint: str = ""
    """Sha256 over its weights and the settings that change what they mean; equal for equal models under other names."""
    source: str = ""
    """Hub id, or the folder's own name."""
    revision: str | None = None
    """Commit of the hub snapshot; None for a folder."""
    rank: int = 0
    """Largest rank of its modules; 0 for a checkpoint."""
    modules: tuple[str, ...] = ()
    """Kinds of modules it changes, e.g. ("q_proj", "v_proj"), sorted."""
    licence: str | None = None
    """`license` of its model card."""
    description: str = ""
    """Text of its model card (or of the manifest), used by the `text` strategy."""
    notes: tuple[str, ...] = ()
    """Warnings that did not refuse it, e.g. another base named in its configuration."""
    delta_path: str = field(default="", metadata={"json": False})
    """Folder of the weight delta that PEFT made of it, on this machine; "" where its own files are read."""


@dataclass(frozen=True, slots=True)
class RefusedModel:
    """A model that was found and set aside.

    >>> RefusedModel("law", "DoRA is not supported").id
    'law'
    """

    __pydantic_config__ = STRICT

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Pool:
    """Candidates sorted by id, and those set aside with the reason.

    >>> Pool((), (RefusedModel("law", "DoRA is not supported"),)).template
    'alpaca'
    """

    candidates: tuple[Candidate, ...]
    refused: tuple[RefusedModel, ...]
    template: str = "alpaca"
    """Name of the prompt template the pool was trained under."""

    @property
    def digest(self) -> str:
        """Sha256 over ids and fingerprints; the order they were found in does not matter."""
        return digest_of([[c.id, c.fingerprint] for c in sorted(self.candidates, key=lambda c: c.id)])


@dataclass(frozen=True, slots=True)
class Interference:
    """How a member gets in the way of those chosen before it, from the LoRA factors alone.

    >>> Interference(sign_conflict=0.47, overlap=0.07).overlap
    0.07
    """

    __pydantic_config__ = STRICT

    sign_conflict: float
    """Share of |Δ| mass where the member's sign opposes the sum of the earlier ones, 0..1."""
    overlap: float
    """Mean squared cosine between the spans of their updates (0: orthogonal subspaces, 1: the same)."""


@dataclass(frozen=True, slots=True)
class Member:
    """A chosen candidate.

    >>> Member("law", "f1", "adapter", "law", None, None, "anchor", 1.0, 0.68, 5.6, None).role
    'anchor'
    """

    __pydantic_config__ = STRICT

    id: str
    fingerprint: str
    kind: Kind
    source: str
    revision: str | None
    licence: str | None
    role: Role
    weight: float
    """Weight in the composition: direction (they sum to 1) times the one global scale."""
    similarity: float | None
    """Cosine of its delta with the task's; None where no task delta was taken."""
    gain: float | None
    """What the strategy gained by adding it, in the strategy's own unit; None where it does not measure."""
    interference: Interference | None
    """With the members before it; None for the first and for checkpoints."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a strategy chose.

    >>> Selection("top_k", (), scale=1.0, stopped="k reached", forwards=160).stopped
    'k reached'
    """

    __pydantic_config__ = STRICT

    strategy: str
    members: tuple[Member, ...]
    scale: float
    """The global scale all weights carry."""
    stopped: str
    """Why it stopped: "k reached", "another partner adds nothing", …"""
    forwards: int
    """Nominal cost of choosing in forward passes over one row (a backward pass counts as two), caches ignored."""


@dataclass(frozen=True, slots=True)
class RecipeMember:
    """One model of a recipe.

    >>> RecipeMember("law", "f1", "adapter", "law", None, 0.5).weight
    0.5
    """

    __pydantic_config__ = STRICT

    id: str
    fingerprint: str
    kind: Kind
    source: str
    revision: str | None
    weight: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """A merge, complete and independent of the tool that carries it out; all formats are renderings of it.

    >>> from dataclasses import replace
    >>> base = Base("org/name", None, "d1", "LlamaForCausalLM")
    >>> recipe = Recipe(1, base, "alpaca", "exact", None, (RecipeMember("law", "f1", "adapter", "law", None, 0.5),))
    >>> renamed = replace(recipe.members[0], id="the same model under another id")
    >>> recipe.digest == replace(recipe, members=(renamed,)).digest
    True
    """

    __pydantic_config__ = STRICT

    version: int
    base: Base
    template: str
    composition: str
    """Spec of the composition: what the weights mean."""
    rank: int | None
    """Rank the merged adapter is cut to; None keeps it exact."""
    members: tuple[RecipeMember, ...]
    layers: tuple[float, ...] = ()
    """Factor on all weights in each of as many equal contiguous groups of transformer blocks, first to last; parameters
    outside of blocks have factor 1. Empty: 1 everywhere."""

    @property
    def digest(self) -> str:
        """Sha256 of all fields but the names under which base and members were found."""
        models = [[m.fingerprint, m.kind, m.weight] for m in self.members]
        parts = [self.version, self.base.digest, self.template, self.composition, self.rank, models]
        # layers only where there are some: digests of recipes from before there were layers stay valid
        return digest_of([*parts, *([self.layers] if self.layers else [])])
