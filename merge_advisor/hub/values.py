"""What a hub folder says: entries, hits of a search, what was added, what a check found."""

from __future__ import annotations

from dataclasses import dataclass, field

from merge_advisor.json_form import STRICT
from merge_advisor.scores import RunCost
from merge_advisor.spaces import Space
from merge_advisor.types import Base, Kind, RefusedModel

HUB_EMBEDDINGS = ("delta_activations",)
"""Specs of the embeddings of a hub where none are named."""


@dataclass(frozen=True, slots=True)
class HubScore:
    """What a model of a hub reached on a task, as it was measured.

    >>> HubScore("sums", "exact_match", 0.5, 0.35, 0.65, rows=40, evaluator="lm-eval 0.4.13").value
    0.5
    """

    __pydantic_config__ = STRICT

    task: str
    """Name of the task."""
    metric: str
    value: float
    """Mean over the rows."""
    lower: float
    """Lower end of the 95% interval of the value."""
    upper: float
    rows: int
    evaluator: str
    """Name and version of what measured."""
    task_digest: str = ""
    """Digest of the rows it was measured on; scores on other rows are not compared."""


@dataclass(frozen=True, slots=True)
class HubEntry:
    """One model of a hub folder: equal weights on one base are one entry, whatever they are called.

    >>> HubEntry(1, ("law", "law-copy"), "b1", "f1", "adapter").id
    'law'
    """

    __pydantic_config__ = STRICT

    number: int
    """Its identity within the hub; never given to another one."""
    ids: tuple[str, ...]
    """The id it was first added under and its aliases; empty of a version that all its ids have left."""
    base: str
    """Digest of its base."""
    fingerprint: str
    kind: Kind
    rank: int = 0
    modules: tuple[str, ...] = ()
    licence: str | None = None
    size: int = 0
    """Bytes of its weights."""
    source: str = ""
    """Hub id, or the folder's own name."""
    revision: str | None = None
    """Commit of the hub snapshot; None for a folder."""
    place: str = ""
    """Folder it was read from on the machine that added it."""
    card: str = ""
    """Text of its model card."""
    languages: tuple[str, ...] = ()
    data_sets: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    """These three as the card names them."""
    template: str = "alpaca"
    """Prompt template of the pool it came from."""
    notes: tuple[str, ...] = ()
    added: str = ""
    """UTC, ISO 8601."""
    scores: tuple[HubScore, ...] = ()
    """Filled by `Hub.entry`; empty in lists and hits."""

    @property
    def id(self) -> str:
        """The id it was first added under; its number where all its ids have newer versions."""
        return self.ids[0] if self.ids else f"#{self.number}"


@dataclass(frozen=True, slots=True)
class HubVersion:
    """A version of an id: which entry it stood for, since when.

    >>> HubVersion("law", 1, 7, "2026-11-29T14:00:00+00:00").entry
    7
    """

    __pydantic_config__ = STRICT

    id: str
    version: int
    entry: int
    """Number of the entry."""
    added: str
    current: bool = True
    """Whether it is the newest of its id."""


@dataclass(frozen=True, slots=True)
class HubBase:
    """A base that a hub holds models of.

    >>> HubBase(Base("org/name", None, "b1", "LlamaForCausalLM"), "org/name", models=3).models
    3
    """

    __pydantic_config__ = STRICT

    base: Base
    place: str
    """As it was named to `add`: what opens it again, on the same machine."""
    models: int
    """Entries with a current id."""


@dataclass(frozen=True, slots=True)
class HubHit:
    """What a search found.

    >>> HubHit(HubEntry(1, ("law",), "b1", "f1", "adapter"), 0.91).score
    0.91
    """

    __pydantic_config__ = STRICT

    entry: HubEntry
    score: float
    """Cosine of its delta with what was asked for, from the stored float32 deltas; of a search by text, how well its
    name, card and tags fit (BM25: only the order means something)."""


@dataclass(frozen=True, slots=True)
class HubSearch:
    """The hits of a search, the best first, and how they were found.

    >>> HubSearch((), "id law", None, models=0).hits
    ()
    """

    __pydantic_config__ = STRICT

    hits: tuple[HubHit, ...]
    asked: str
    """What was asked for, in words."""
    space: Space | None
    """The space that was searched; None of a search by text."""
    models: int
    """Models that could have been found."""
    exact: bool = True
    """Whether all of them were compared; else an index named those that were."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HubAdded:
    """What `add` did.

    >>> HubAdded(new=("law",)).unchanged
    0
    """

    __pydantic_config__ = STRICT

    new: tuple[str, ...] = ()
    """Ids of new entries."""
    versions: tuple[str, ...] = ()
    """Ids that stand for new weights now; what they stood for is kept."""
    aliases: tuple[str, ...] = ()
    """Ids of weights that were there under another one."""
    updated: tuple[str, ...] = ()
    """Ids whose card, licence or place is another one now."""
    unchanged: int = 0
    embedded: int = 0
    """Deltas that the hub lacked."""
    refused: tuple[RefusedModel, ...] = ()
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class HubCheck:
    """What a check of a hub folder found.

    >>> HubCheck(entries=3, deltas=3, damaged=(), index=(), repaired=()).whole
    True
    """

    __pydantic_config__ = STRICT

    entries: int
    deltas: int
    damaged: tuple[str, ...]
    """What is wrong in the catalogue, a line each: only adding the models again mends it."""
    index: tuple[str, ...]
    """What is wrong with vectors or text index, a line each: `repair` makes them anew from the catalogue."""
    repaired: tuple[str, ...]
    gone: tuple[str, ...] = ()
    """Ids whose folder is not there any more; they stay, and no plan takes them."""
    left: tuple[str, ...] = ()
    """What no repair could mend, of those that are wrong."""

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong, or nothing any more."""
        return not self.left if self.repaired else not (self.damaged or self.index)


@dataclass(frozen=True, slots=True)
class HubRun:
    """A run planned from a hub.

    >>> HubRun("runs/law", "2026-11-29T14:00:00+00:00", ("law",), "merge").verdict
    'merge'
    """

    __pydantic_config__ = STRICT

    folder: str
    added: str
    tasks: tuple[str, ...]
    verdict: str
    """Empty until scored."""
    cost: RunCost | None = None
    """None of runs listed before that was kept."""


@dataclass(frozen=True, slots=True)
class HubJudged:
    """A gate, or a model judged for a watched pool, that the hub folder was named for.

    >>> HubJudged("gate", "law-2", "hub:law", ("law",), "passed", "2026-11-29T14:00:00+00:00").cost
    """

    __pydantic_config__ = STRICT

    kind: str
    """"gate" or "watch"."""
    model: str
    """As it was named."""
    against: str
    """The baseline as it was named; of a watched pool the pool."""
    tasks: tuple[str, ...]
    """Names of the checks."""
    outcome: str
    added: str
    cost: RunCost | None = None
    """What it took; scoring every candidate is of the models of the hub's base, or of the watched pool."""


@dataclass(frozen=True, slots=True)
class HubSavings:
    """What runs and gates of a hub took together, and what their alternatives would have; sums of recorded figures.

    >>> HubSavings(runs=2, without_figures=2).seconds
    0.0
    """

    __pydantic_config__ = STRICT

    runs: int
    without_figures: int
    """Runs that recorded none: in no sum."""
    forwards: int = 0
    seconds: float = 0.0
    peak_bytes: int | None = None
    """The largest."""
    scored: int = 0
    """Runs that measured what scoring a model takes."""
    scored_seconds: float = 0.0
    """What these took themselves."""
    every_candidate_seconds: float = 0.0
    """What scoring every candidate of each of them would have taken."""
    every_candidate_forwards: int = 0
    """Forward passes of that."""
    trained: int = 0
    """Runs that recorded what the LoRA of the shots takes."""
    shots_forwards: int = 0
    shots_seconds: float = 0.0
    judged: int = 0
    """Gates, and models judged for watched pools."""
    judged_forwards: int = 0
    judged_seconds: float = 0.0
    judged_known: int = 0
    """Of these, those that know how many candidates there were and what one takes."""
    judged_known_seconds: float = 0.0
    """What these took themselves."""
    judged_every_seconds: float = 0.0
    """What scoring every candidate on their rows would have taken."""
    judged_every_forwards: int = 0
