"""Finetunes of a base as the hub lists them: adapters, full finetunes, adapters of quantised copies of the base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from merge_advisor.errors import InputError, PoolError
from merge_advisor.json_form import STRICT
from merge_advisor.plain_text import short_name
from merge_advisor.pool.candidate import ADAPTER_FILES, CHECKPOINT_FILES
from merge_advisor.pool.licences import read_card
from merge_advisor.progress import Progress, quiet_progress
from merge_advisor.types import Kind, RefusedModel
from merge_advisor.weights.adapter import ADAPTER_WEIGHTS
from merge_advisor.weights.adapter_config import ADAPTER_CONFIG
from merge_advisor.weights.hub import HubId, fetch_snapshot, parse_id
from merge_advisor.weights.hub_errors import hub_failures

if TYPE_CHECKING:
    from merge_advisor.hub_options import FindOptions

_COPIES = 20
"""Quantised copies of a base whose adapters are looked for, those downloaded most."""
_SCANNED = 2000
"""Models of one kind looked through where a filter leaves some out."""
_WORKERS = 8
"""Models whose files are listed at a time."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_NO_PICKLES = ("training_args.bin", "optimizer.*", "scheduler.*", "scaler.*", "rng_state*")
"""Pickles that trainers leave beside the weights."""

Weights = Literal["safetensors", "pickle", "none"]
"""What a repository's weights are, as far as they can be used here."""


@dataclass(frozen=True, slots=True)
class HubModel:
    """A finetune that the hub lists, at one commit.

    >>> model = HubModel("org/name", "0" * 40, "adapter", "org/base", downloads=12, size=8_000_000)
    >>> model.usable, model.marks
    (True, ())
    """

    __pydantic_config__ = STRICT

    id: str
    revision: str
    """The commit its main branch is at."""
    kind: Kind
    of: str
    """What its card names as its base: the base, or a quantised copy of it."""
    downloads: int = 0
    """In the last month."""
    licence: str | None = None
    size: int = 0
    """Bytes that `plan` fetches of it (of a pickle: that `convert` does)."""
    weights: Weights = "safetensors"
    gated: bool = False
    private: bool = False
    granted: bool = True
    """Whether the hub gives its files to this user."""
    copy: bool = False
    """Whether it was finetuned on a quantised copy of the base."""
    card: str = ""
    """Text of its model card."""
    similarity: float | None = None
    """TF-IDF cosine of name and card with the examples; None where no task was given."""

    @property
    def usable(self) -> bool:
        """Whether `plan` can take it as it is: open to this user, with weights that are no pickle."""
        return self.granted and self.weights == "safetensors"

    @property
    def marks(self) -> tuple[str, ...]:
        """What has to be known of it before it is used."""
        marks = {
            "pickles only": self.weights == "pickle",
            "no weights that can be read": self.weights == "none",
            "private": self.private,
            "gated": self.gated and self.granted,
            "gated, not open to you": self.gated and not self.granted,
            f"of {self.of}": self.copy,
        }
        return tuple(mark for mark, is_so in marks.items() if is_so)


@dataclass(frozen=True, slots=True)
class HubListing:
    """What the hub has of a base.

    >>> HubListing(HubId("org/base", "0" * 40), (), ()).base.repo
    'org/base'
    """

    base: HubId
    """Under the name the hub gives it, at the commit of its main branch."""
    models: tuple[HubModel, ...]
    """By falling downloads."""
    refused: tuple[RefusedModel, ...]
    """Those that could not be looked at."""
    notes: tuple[str, ...] = ()


def list_hub_models(base: str, options: FindOptions, *, progress: Progress = quiet_progress) -> HubListing:
    """Return the finetunes of a base that the hub lists, with files and card of each.

    A model counts where its card names the base, or one of the quantised copies of the base that are downloaded most:
    an adapter trained on such a copy has the base's shapes.

    Args:
        base: hub id, perhaps with a revision.
        options: how many, and which of them.
        progress: called with (what, done, total).

    Raises:
        InputError: no hub id, no such base on the hub, or none of its finetunes fits the options.
        ExternalError: the hub cannot be reached, asks for a pause, or failed.
    """
    from huggingface_hub import HfApi

    asked = parse_id(base)
    if asked is None:
        raise InputError(f"`base={short_name(base)}`: is no hub id; give organisation/name, as the hub knows the base")
    api = HfApi()
    with hub_failures(base):
        info = api.model_info(asked.repo, revision=asked.revision)
    # the hub follows a repository that was renamed; cards may still name the old one
    names = list(dict.fromkeys([info.id, asked.repo]))
    with hub_failures(base):
        copies, more = _copies(api, names) if options.kind != "checkpoint" else ([], False)
        found, cut, unseen = _found(api, names, copies, options)
    if not found:
        raise InputError(_nothing(base, options))
    models, refused = _examined(api, found, options, progress)
    others = [] if options.kind == "all" else [model for model in models if model.kind != options.kind]
    models = [model for model in models if model not in others]
    if not models and not refused:
        raise InputError(_nothing(base, options))
    notes = []
    if others:
        notes.append(f"left out, as their files are of the other kind than the hub says: {len(others)}")
    if renamed := [name for name in names if name != info.id]:
        notes.append(f"the hub calls {renamed[0]} {info.id}")
    from_copies = sum(model.copy for model in models)
    if copies:
        most = ", those downloaded most of more" if more else ""
        words = f"of quantised copies of the base (copies looked at: {len(copies)}{most})"
        notes.append(f"{from_copies} of {len(models)} are adapters {words}")
    if unseen:
        notes.append(f"`licence` looked through the {_SCANNED} downloaded most of each kind; the hub has more")
    if cut:
        notes.append(f"the hub has more than these {len(models)}; a larger `limit` takes them in")
    return HubListing(HubId(info.id, info.sha), tuple(models), tuple(refused), tuple(notes))


def _nothing(base: str, options: FindOptions) -> str:
    if options.licence or options.min_downloads or options.kind != "all":
        return f"{base}: no finetune on the hub is left by `kind`, `licence` and `min_downloads`; loosen them"
    return f"{base}: the hub lists no finetunes of it; name the base as the cards of its finetunes do"


def _copies(api: Any, names: Sequence[str]) -> tuple[list[str], bool]:
    """The quantised copies of a base downloaded most, and whether there are more."""
    ids: list[str] = []
    for name in names:
        listed = api.list_models(filter=f"base_model:quantized:{name}", sort="downloads", limit=_COPIES + 1)
        ids += [info.id for info in listed if info.id not in ids]
    return ids[:_COPIES], len(ids) > _COPIES


def _found(
    api: Any, names: Sequence[str], copies: Sequence[str], options: FindOptions
) -> tuple[list[tuple[Any, str, bool]], bool, bool]:
    """What is listed, as (entry, base it names, whether that is a copy) by falling downloads.

    Then whether more of it fits the options, and whether some was not looked at.
    """
    relations = {"all": ("adapter", "finetune"), "adapter": ("adapter",), "checkpoint": ("finetune",)}[options.kind]
    asked = [(f"base_model:{relation}:{name}", name, False) for name in names for relation in relations]
    asked += [(f"base_model:adapter:{name}", name, True) for name in copies]
    found: dict[str, tuple[Any, str, bool]] = {}
    cut, ended = False, [False]
    for tag, of, copy in asked:
        kept = list(islice(_listed(api, tag, options, ended), options.limit + 1))
        cut = cut or len(kept) > options.limit
        for info in kept:
            found.setdefault(info.id, (info, of, copy))
    ranked = sorted(found.values(), key=lambda item: (-(item[0].downloads or 0), item[0].id))
    return ranked[: options.limit], cut or len(ranked) > options.limit, ended[0]


def _listed(api: Any, tag: str, options: FindOptions, ended: list[bool]) -> Iterator[Any]:
    """The models of a tag by falling downloads, without those left out; `ended`: not all were seen."""
    most = _SCANNED if options.licence else options.limit
    # one more than is looked at, which tells whether there are more
    for number, info in enumerate(api.list_models(filter=tag, sort="downloads", limit=most + 1, full=True)):
        if options.licence and number == most:
            ended[0] = True
            return
        if (info.downloads or 0) < options.min_downloads:
            return
        # the name of a licence outside of the hub's list stands in the card alone, which is read later
        if _licensed(_tagged_licence(info), options.licence, unread=True):
            yield info


def _tagged_licence(info: Any) -> str | None:
    tags = [tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")]
    return tags[0].lower() if tags else None


def _licensed(licence: str | None, wanted: Sequence[str], *, unread: bool = False) -> bool:
    if not wanted or (unread and licence == "other"):
        return True
    return any(fnmatchcase(licence or "unknown", pattern.lower()) for pattern in wanted)


def _examined(
    api: Any, found: Sequence[tuple[Any, str, bool]], options: FindOptions, progress: Progress
) -> tuple[list[HubModel], list[RefusedModel]]:
    """The models with their files and cards, and those that the hub does not show."""
    models, refused = [], []
    what = "asking for files and cards"
    progress(what, 0, len(found))
    workers = ThreadPoolExecutor(_WORKERS)
    try:
        answers = workers.map(lambda item: _looked_at(lambda: _examine(api, *item), item[0].id), found)
        for number, answer in enumerate(answers, 1):
            progress(what, number, len(found))
            if isinstance(answer, RefusedModel):
                refused.append(answer)
            elif _licensed(answer.licence, options.licence):
                models.append(answer)
    finally:
        # after a failure of the hub the models still waiting would fail one after the other
        workers.shutdown(cancel_futures=True)
    return models, refused


def _looked_at(look: Callable[[], HubModel], name: str) -> HubModel | RefusedModel:
    try:
        return look()
    except InputError as error:  # deleted or closed since it was listed, or an id that no manifest can hold
        message = str(error)  # begins with the id, perhaps with the commit
        return RefusedModel(short_name(name), message.partition(": ")[2] if message.startswith(name) else message)


def _examine(api: Any, info: Any, of: str, copy: bool) -> HubModel:
    """Return a listed model with what its files and its card say."""
    from huggingface_hub.errors import GatedRepoError

    if parse_id(info.id) is None:
        raise PoolError(f"{info.id}: its id names no organisation; fetch it yourself, and name its folder")
    with hub_failures(info.id):
        revision = info.sha or api.model_info(info.id).sha
    tagged = _tagged_licence(info)
    adapts = any(tag.startswith("base_model:adapter:") for tag in info.tags or ())
    kind: Kind = "adapter" if adapts else "checkpoint"
    model = HubModel(
        info.id, revision, kind, of, info.downloads or 0, None if tagged == "unknown" else tagged,
        gated=bool(info.gated), private=bool(info.private), copy=copy,
    )  # fmt: skip
    with hub_failures(f"{info.id}@{revision}"):
        try:
            if info.gated:
                api.auth_check(info.id)
            files = {
                file.path: int(file.size)
                for file in api.list_repo_tree(info.id, revision=revision)
                if getattr(file, "size", None) is not None
            }
        except GatedRepoError:
            return replace(model, granted=False)
    card = read_card(fetch_snapshot(HubId(info.id, revision), ("README.md",)).path) if "README.md" in files else None
    if card is not None:
        model = replace(model, card=card.text, licence=card.licence or model.licence)
    return with_files(model, files)


def with_files(model: HubModel, files: dict[str, int]) -> HubModel:
    """Return a model with its kind, weights and size, as `plan` would find them.

    >>> model = HubModel("org/name", "0" * 40, "checkpoint", "org/base")
    >>> pickled = with_files(model, {"adapter_config.json": 500, "adapter_model.bin": 8_000_000, "notes.pdf": 10**9})
    >>> pickled.kind, pickled.weights, pickled.size
    ('adapter', 'pickle', 8000500)

    Args:
        model: as it is listed.
        files: name at the top of the repository -> bytes.
    """
    kind: Kind = "adapter" if ADAPTER_CONFIG in files else "checkpoint"
    if kind == "adapter":
        whole = any(_fits(name, (ADAPTER_WEIGHTS, "adapter_model-*.safetensors")) for name in files)
    else:
        shards = ("model.safetensors", "model-*.safetensors")
        whole = "config.json" in files and any(_fits(name, shards) for name in files)
    wanted: Sequence[str] = ADAPTER_FILES if kind == "adapter" else CHECKPOINT_FILES
    pickles = [name for name in files if _fits(name, _PICKLES) and not _fits(name, _NO_PICKLES)]
    weights: Weights = "safetensors" if whole else "pickle" if pickles else "none"
    fetched = [name for name in files if _fits(name, wanted) or (not whole and name in pickles)]
    return replace(model, kind=kind, weights=weights, size=sum(files[name] for name in fetched))


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
