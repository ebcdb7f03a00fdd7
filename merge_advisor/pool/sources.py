"""Where the models of a pool are: a folder, a manifest, or hub ids. Nothing of a model is read here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PureWindowsPath

from merge_advisor.errors import PoolError
from merge_advisor.limits import MANIFEST_BYTES
from merge_advisor.plain_text import short_name
from merge_advisor.pool.archives import UNREAD_ARCHIVES, archive_stem
from merge_advisor.pool.links import CACHED_MODEL, leaves_pool, way_out
from merge_advisor.pool.manifest import ManifestEntry, read_manifest
from merge_advisor.regular_files import home_expanded, is_irregular, read_regular, read_regular_text
from merge_advisor.types import TRAINED
from merge_advisor.weights.hub import HubId, parse_id

_LONGEST_ID = 200
FOLDER_MANIFEST = "pool.yaml"
"""Name of a manifest that speaks of the folders beside it."""

_ADAPTER, _CONFIG = "adapter_config.json", "config.json"
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.distcp", "adapters.npz")
_NO_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state)[\w-]*\.(bin|pt|pth)")
"""What trainers leave beside weights, or where there are none."""
_TEXTS = (".json", ".jsonl", ".md", ".txt", ".yaml", ".yml", ".py", ".model", ".jinja")
"""Ends of the names of files that are no model even where a link to one leads nowhere."""
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_RUN = ("plan.json", "recipe.json")
"""What a run folder of ours always holds."""
_DEPTH = 8
"""Folders below a pool that are looked into for models, one inside the other."""


@dataclass(frozen=True, slots=True)
class FoundModel:
    """One model of a pool, not opened yet.

    >>> [model.id for model in find_models("adapters").models]
    ['a0', 'a1', 'a2', 'b0', 'b1', 'b2']
    """

    id: str
    folder: Path | None
    """Where it is; None for a model of the hub."""
    hub: HubId | None = None
    """Where to fetch it from; None for a model in a folder."""
    description: str = ""
    """What the manifest says of it; comes before the model card."""
    note: str = ""
    """What was decided where a folder holds more than the model, or holds it further down."""
    named: bool = False
    """Whether its place was named, by a manifest or as the pool: it is read even where it is a link."""
    refusal: str = ""
    """Why it is not read, where that was decided without opening it."""
    run: bool = False
    """Whether it is the merge of a run folder that was found in a pool."""


@dataclass(frozen=True, slots=True)
class Sources:
    """All models of a pool, in the order they are listed, and what the manifest says of the whole.

    >>> [model.hub.repo for model in find_models("org/one,org/two").models]
    ['org/one', 'org/two']
    """

    models: tuple[FoundModel, ...]
    template: str | None = None
    """The prompt template the pool was trained under, if the manifest names it."""


def check_id(name: str) -> None:
    """Check a candidate's id: printable text, of whose parts between slashes none is `..`, `.` or empty.

    Ids become names of files and folders, and stand in reports.

    >>> check_id("org/name")

    Args:
        name: the id.

    Raises:
        PoolError: it is no such text; the message says why, with the id made printable.
    """
    shown = short_name(name)
    if not name or name != name.strip():
        raise PoolError(f"id '{shown}': is empty or begins or ends with space; rename it")
    if not name.isprintable():
        raise PoolError(f"id '{shown}': holds characters that cannot be printed; rename it")
    if len(name) > _LONGEST_ID:
        raise PoolError(f"id '{shown}': is longer than {_LONGEST_ID} characters; rename it")
    if any(part in ("", ".", "..") for part in name.replace("\\", "/").split("/")):
        raise PoolError(f"id '{shown}': begins or ends with a path separator or has '.' or '..' for a part; rename it")
    if name in TRAINED:
        raise PoolError(f"id '{name}': is kept for an adapter trained on the examples; rename it")


def find_models(ref: str | Path, *, follow_links: bool = False) -> Sources:
    """Return the models of a pool, without opening them.

    Args:
        ref: a folder of models (or of one model), a manifest (.yaml), a list of hub ids (.txt), or hub ids separated
            by commas. It may itself be a link, and so may what a manifest names.
        follow_links: read what links in the pool lead to outside of it too; else such models are refused.

    Raises:
        PoolError: nothing there, nothing in it, an id twice, a path out of the manifest's folder, or no hub id.
    """
    path = home_expanded(ref)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError):
        is_folder = is_file = False
    if is_folder:
        sources = _in_folder(path, follow_links=follow_links)
    elif is_file and path.suffix.lower() in (".yaml", ".yml"):
        sources = _in_manifest(path)
    elif is_file and path.suffix.lower() == ".txt":
        sources = Sources(tuple(_in_list(path)))
    elif is_file and (stem := _packed_stem(path)) is not None:
        sources = Sources((FoundModel(stem, path, named=True),))
    elif is_file:
        raise PoolError(
            f"pool {path}: is neither a folder, an archive, a manifest (.yaml) nor a list of hub ids (.txt); name one"
        )
    else:
        sources = Sources(tuple(_by_ids(str(ref))))
    seen: set[str] = set()
    for model in sources.models:
        if model.id in seen:
            raise PoolError(f"pool {ref}: the id '{short_name(model.id)}' is there twice; give one another id")
        seen.add(model.id)
    if follow_links:
        return sources
    here = (path if is_folder else path.parent).resolve()
    return replace(sources, models=tuple(_within(model, here) for model in sources.models))


def _within(model: FoundModel, pool: Path) -> FoundModel:
    """The model, refused where links lead out of the pool; what a manifest names lies where it says."""
    if model.folder is None or model.refusal or not model.folder.exists():
        return model
    try:
        roots = (pool, model.folder.resolve()) if model.named else (pool,)
        return replace(model, refusal=way_out(model.folder, roots))
    except OSError:  # told where it is read
        return model


def is_run_folder(folder: Path) -> bool:
    """Return whether a folder is a run folder of ours.

    >>> is_run_folder(Path("run")), is_run_folder(Path("adapters"))
    (True, False)

    Args:
        folder: the folder.
    """
    return all((folder / file).is_file() for file in _RUN)


def _is_model(folder: Path) -> bool:
    """Whether a folder is one adapter or checkpoint: a configuration with weights, pickled or not."""
    return _is_there(folder / _ADAPTER) or (_is_there(folder / _CONFIG) and _has_weights(folder))


def _may_be_model(folder: Path) -> bool:
    """Whether a folder of a pool was meant as a model: a broken one is set aside by name, not ignored."""
    return _is_there(folder / _ADAPTER) or _is_there(folder / _CONFIG) or _has_weights(folder)


def _is_there(path: Path) -> bool:
    """Whether a file is there, or what cannot be opened as one: a FIFO in its place is told, and not passed over."""
    return path.is_file() or is_irregular(path)


def _has_weights(folder: Path) -> bool:
    files = (file.name for pattern in _WEIGHTS for file in folder.glob(pattern))
    return any(name[0] != "." and not _NO_WEIGHTS.fullmatch(name) for name in files)


def _in_folder(path: Path, *, follow_links: bool) -> Sources:
    where = path / FOLDER_MANIFEST
    root = None if follow_links else path.resolve()
    if root is not None and where.is_file() and leaves_pool(where, root):
        raise PoolError(f"{where}: is a link that leads out of the pool; copy it in, or give `follow_links=True`")
    manifest = read_manifest(where) if _is_there(where) else None
    if manifest and manifest.models is not None:
        return _in_manifest(where)
    texts = manifest.descriptions if manifest else {}
    try:
        if _is_model(path):
            found = [FoundModel(_own_name(path), path, note=_left_out(path))]
        elif (run := _run(path, _own_name(path))) is not None:
            found = [run]
        else:
            # weights without a configuration are told, as those further down are
            found = [FoundModel(_own_name(path), path)] if _may_be_model(path) else []
            found += _below(path, (), {path.resolve(), *path.resolve().parents}, root)
    except OSError as error:
        raise PoolError(f"pool {path}: cannot be read ({error.strerror}); check its permissions") from error
    named = {model.id for model in found}
    if not found:
        raise PoolError(f"pool {path}: has no models; each is a folder with adapter_config.json or config.json")
    for name in texts:
        if name not in named:
            raise PoolError(f"{where}: describes '{short_name(name)}', which is not there; correct the name")
    models = tuple(replace(model, description=texts.get(model.id, "")) for model in found)
    return Sources(models, manifest.template if manifest else None)


def _below(path: Path, within: tuple[str, ...], seen: set[Path], root: Path | None) -> Iterator[FoundModel]:
    """Yield the models in a folder and in those below; `seen` are what was looked into, and what the pool lies in.

    What leads out of `root` is not looked into, where there is one.
    """
    if (cached := _cached(path)) is not None:
        yield from _of_snapshot(cached, seen, root)
        return
    inside = [part for part in path.iterdir() if part.name[0] != "."]
    gone = [part for part in inside if not part.exists() and part.suffix.lower() not in _TEXTS]
    yield from (FoundModel("/".join([*within, part.name]), part) for part in gone)
    # links last: what they lead back to goes by its own name
    folders = sorted((part for part in inside if part.is_dir()), key=lambda part: (part.is_symlink(), part.name))
    if root is not None:
        # what the pool lies in is no model of it
        links = [folder for folder in folders if folder.is_symlink() and folder.resolve() not in seen]
        out = [folder for folder in links if leaves_pool(folder, root)]
        yield from (FoundModel("/".join([*within, folder.name]), folder) for folder in out)
        folders = [folder for folder in folders if folder not in out]
    steps = {folder: _step(folder) for folder in folders}
    numbers = {folder: step for folder, step in steps.items() if step is not None and _may_be_model(folder)}
    if within and numbers:  # a training run that was not finished, or not saved at its end
        newest = max(numbers, key=lambda folder: numbers[folder])
        note = f"{newest.name}, the newest of {len(numbers)} checkpoints there, stands for it"
        left_out = _left_out(newest)
        yield FoundModel("/".join(within), newest, note=f"{note}; {left_out}" if left_out else note)
        folders = [folder for folder in folders if folder not in numbers]
    yield from _packed(path, within, {folder.name for folder in folders})
    for folder in folders:
        name, real = "/".join([*within, folder.name]), folder.resolve()
        if real in seen:
            continue
        if (run := _run(folder, name)) is not None:
            yield run
        elif _may_be_model(folder):
            yield FoundModel(name, folder, note=_left_out(folder))
        elif len(within) + 1 < _DEPTH:
            seen.add(real)
            yield from _below(folder, (*within, folder.name), seen, root)


def _of_snapshot(cached: FoundModel, seen: set[Path], root: Path | None) -> Iterator[FoundModel]:
    """The model of the hub's cache, or those in folders of its repository."""
    further = cached.folder is not None and cached.note and not _may_be_model(cached.folder)
    if root is not None and cached.folder is not None and leaves_pool(cached.folder, root):
        further = False
    found = list(_below(cached.folder, (cached.id,), seen, root)) if further and cached.folder else []
    for model in found:
        yield replace(model, note=f"{cached.note}; {model.note}" if model.note else cached.note)
    if not found:
        yield cached


def _packed(path: Path, within: tuple[str, ...], folders: set[str]) -> Iterator[FoundModel]:
    """Yield the archives in a folder, those that are not read too, and GGUF files."""
    for file in sorted(path.iterdir()):
        if _is_there(file) and file.name[0] != "." and (stem := _packed_stem(file)) is not None:
            twice = stem in folders or any(archive_stem(o.name) == stem for o in path.iterdir() if o.name != file.name)
            yield FoundModel("/".join([*within, file.name if twice else stem]), file)


def _packed_stem(file: Path) -> str | None:
    """What a model that is one file is called; None where a file is none."""
    if file.name.lower().endswith(UNREAD_ARCHIVES):
        return file.name
    return archive_stem(file.name) or (file.stem if file.suffix.lower() == ".gguf" else None)


def _run(folder: Path, name: str) -> FoundModel | None:
    """The merge of a run folder of ours, and nothing else that is in there."""
    if not is_run_folder(folder):
        return None
    if (folder / "adapter" / _ADAPTER).is_file():
        note = "the merge of the run there (adapter/); its parts are left out"
        return FoundModel(name, folder / "adapter", note=note, run=True)
    return FoundModel(name, folder, run=True)


def _step(folder: Path) -> int | None:
    match = _CHECKPOINT.fullmatch(folder.name)
    return int(match[1]) if match else None


def _left_out(folder: Path) -> str:
    """What is said of models inside a folder that is a model."""
    try:
        inside = [part.name for part in folder.iterdir() if part.is_dir() and _is_model(part)]
    except OSError:  # told where the model itself is read
        return ""
    return f"models inside its folder are left out: {', '.join(map(short_name, sorted(inside)))}" if inside else ""


def _cached(folder: Path) -> FoundModel | None:
    """A model in a folder of the hub's cache: the commit that `refs/main` names, else the only one."""
    match = CACHED_MODEL.fullmatch(folder.name)
    if match is None or not (folder / "snapshots").is_dir():
        return None
    commits = sorted(part for part in (folder / "snapshots").iterdir() if part.is_dir())
    main = folder / "refs" / "main"
    named = read_regular(main).decode(errors="replace").strip() if main.is_file() else ""
    chosen = next((part for part in commits if part.name == named), None)
    if chosen is None and len(commits) == 1:
        chosen = commits[0]
    if chosen is None:
        return FoundModel(f"{match['org']}/{match['name']}", folder)
    return FoundModel(f"{match['org']}/{match['name']}", chosen, note=f"commit {chosen.name[:12]} of the hub's cache")


def _own_name(folder: Path) -> str:
    return folder.name or folder.resolve().name


def _in_manifest(path: Path) -> Sources:
    manifest = read_manifest(path)
    if not manifest.models:
        raise PoolError(f"{path}: lists no models; add one `- path:` or `- hub:` for each")
    models = [_listed(item, path, f"{path}: model {n}") for n, item in enumerate(manifest.models, 1)]
    texts = manifest.descriptions
    for name in texts:
        if name not in {model.id for model in models}:
            raise PoolError(f"{path}: describes '{short_name(name)}', which is not listed; correct the name")
    return Sources(
        tuple(replace(m, description=m.description or texts.get(m.id, "")) for m in models),
        manifest.template,
    )


def _listed(item: ManifestEntry, manifest: Path, where: str) -> FoundModel:
    if item.hub is not None:
        model = parse_id(item.hub)
        if model is None:
            raise PoolError(f"{where}: '{short_name(item.hub)}' is no hub id; write organisation/name")
        if item.revision and model.revision not in (None, item.revision):
            raise PoolError(f"{where}: names two revisions, {model.revision} and {item.revision}; leave one out")
        model = HubId(model.repo, item.revision or model.revision)
        return FoundModel(item.id or model.repo, None, model, item.description)
    text = item.path or ""
    if not text or "\0" in text or ".." in (*PurePath(text).parts, *PureWindowsPath(text).parts):
        raise PoolError(f"{where}: the path '{short_name(text)}' leads out of the manifest's folder; write it absolute")
    folder = manifest.parent / home_expanded(text)
    return FoundModel(item.id or _own_name(folder), folder, None, item.description, named=True)


def _in_list(path: Path) -> list[FoundModel]:
    try:
        if (size := path.stat().st_size) > MANIFEST_BYTES.most:
            raise PoolError(f"pool {path}: has {MANIFEST_BYTES.over}; cut it in two, or {MANIFEST_BYTES.remedy(size)}")
        lines = read_regular_text(path, "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PoolError(f"pool {path}: cannot be read as UTF-8 text; check the file") from error
    models = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if text:
            model = parse_id(text)
            if model is None:
                raise PoolError(f"{path}, line {number}: '{short_name(text)}' is no hub id; write organisation/name")
            models.append(FoundModel(model.repo, None, model))
    if not models:
        raise PoolError(f"pool {path}: lists no hub ids; write one organisation/name a line")
    return models


def _by_ids(text: str) -> list[FoundModel]:
    models = [parse_id(part.strip()) for part in text.split(",")]
    if not all(models):
        raise PoolError(f"pool {short_name(text)}: not there; name a folder, a manifest, or hub ids like org/name")
    return [FoundModel(model.repo, None, model) for model in models if model]
