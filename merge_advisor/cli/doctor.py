"""`merge-advisor doctor`: what is installed, reachable, broken."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from merge_advisor.backbone.devices import check_devices, cores, cuda_devices, memory_free, remedy, settle
from merge_advisor.backbone.memory import devices_for, memory_needed, vocabulary_of
from merge_advisor.checked_sqlite import read_only
from merge_advisor.cli.kept import check_place, check_store
from merge_advisor.cli.settings import SETTINGS_FILE, read_settings
from merge_advisor.disks import disk_of_others, has_locks
from merge_advisor.errors import BaseModelError, MergeAdvisorError
from merge_advisor.machine_options import AUTO, Machine
from merge_advisor.weights.base import quantised_base
from merge_advisor.weights.files import read_json
from merge_advisor.weights.quantised import quantisation
from merge_advisor.weights.tensorfile import open_folder

PACKAGES = {
    "torch": "everything that runs a model", "transformers": "loading a base", "peft": "reading our adapters elsewhere",
    "mergekit": "merge --with mergekit", "lm_eval": "score", "scikit-learn": "the strategies cluster and text",
    "optuna": "tune", "pandas": "bench", "gguf": "a base in a .gguf file",
}  # fmt: skip

_SEVERAL = ", or on several GPUs where one is too small for the base"


def diagnose(folder: Path, *, store: bool = False, check: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """Return findings about packages, compute, cache, hub and settings, and about what is kept in the store.

    Args:
        folder: the folder whose merge-advisor.toml is read.
        store: compare every value kept in the store with its checksum.
        check: run folders, hub folders, studies, stores and results of benchmarks of which the same is done.

    Returns:
        findings of the form {what, ok, says}; `ok` is False where something is broken.

    >>> diagnose(Path())[0]["what"]
    'python'
    """
    findings = [_finding("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")]
    findings += [_package(name, use) for name, use in PACKAGES.items()]
    findings += [_compute(folder), _cache(folder), _hub(), _settings(folder), *_base(folder)]
    findings += [_store(folder)] if store else []
    return findings + [_kept(path) for path in check]


def _finding(what: str, ok: bool, says: str) -> dict[str, Any]:
    return {"what": what, "ok": ok, "says": says}


def _package(name: str, use: str) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return _finding(name, True, version(name))
    except PackageNotFoundError:
        return _finding(name, False, f"not installed; needed for {use}: pip install {name}")


def _compute(folder: Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        return _finding("compute", False, f"torch cannot be imported ({error}); install it anew")
    try:
        settings = read_settings(folder)
    except MergeAdvisorError:
        settings = {}  # what is wrong with them is a finding of its own
    asked = Machine(**{key: settings[key] for key in ("device", "dtype") if key in settings})
    base = Path(str(settings.get("base", "")))
    try:
        if asked.device != AUTO:
            check_devices(asked.device)
        here = "base" in settings and (base / "config.json").is_file()
        config = read_json(base / "config.json") if here else {}
        machine, said = settle(asked, config)
        # a quantised base is dequantised first: what its files hold says little of what a device has to
        fit = _fit(asked.device, machine, base, config) if here and not quantisation(config) else ""
    except MergeAdvisorError as error:
        return _finding("compute", False, str(error))
    gpus = [
        f"{device} {torch.cuda.get_device_name(device)} ({(memory_free(device) or 0) / 1e9:.1f} GB free)"
        for device in cuda_devices()
    ]
    free = None if gpus else memory_free(machine.device)
    used = [
        f"{cores()} cores, {machine.threads or torch.get_num_threads()} threads", f"GPUs: {', '.join(gpus) or 'none'}",
        f"plans run on {machine.device}{_SEVERAL if asked.device == AUTO and len(gpus) > 1 and not fit else ''}",
        *([f"{free / 1e9:.1f} GB of its memory are free"] if free else []), *([fit] if fit else []),
    ]  # fmt: skip
    return _finding("compute", True, ", ".join(used) + (f"; {said}" if said else ""))


def _fit(asked: str, machine: Machine, base: Path, config: dict[str, Any]) -> str:
    """Where the base of the settings goes, with nothing placed on it, and whether it fits there."""
    shapes = {name: info.shape for name, (_, info) in open_folder(base).items() if info.is_float}
    found = devices_for(asked, machine, base, shapes, config, tuple)
    device = found.name if found else machine.device
    needed = memory_needed(shapes, machine.dtype, changed=0, vocabulary=vocabulary_of(config))
    free = memory_free(device) if found is None else None
    fits = found.fits if found else free is None or needed <= free
    where = ", ".join(found.lines) if found else f"{device} about {needed / 1e9:.1f} GB"
    short = "" if fits else f", which may not fit: {remedy(device, machine.dtype)}"
    return f"the base alone takes in {machine.dtype} on {where}{short}"


def _places(folder: Path) -> tuple[Path, Path]:
    """The cache and the store, of the settings or where they are without any."""
    from merge_advisor.advisor.measuring.session import default_cache

    try:
        settings = read_settings(folder)
    except MergeAdvisorError:
        settings = {}  # what is wrong with them is a finding of its own
    cache = Path(settings.get("cache") or default_cache())
    return cache, Path(settings.get("store") or cache / "store.sqlite")


def _store(folder: Path) -> dict[str, Any]:
    """Whether every value of the store is what was kept; it is read as a plan reads it, and nothing is deleted."""
    _, path = _places(folder)
    if not path.is_file():
        return _finding("store", True, f"{path}: nothing is stored yet")
    return _finding(*check_store(path))


def _kept(path: Path) -> dict[str, Any]:
    try:
        return _finding(*check_place(path))
    except MergeAdvisorError as error:
        return _finding("check", False, str(error))


def _cache(folder: Path) -> dict[str, Any]:
    cache, store = _places(folder)
    if not cache.is_dir():
        # looking makes nothing: the place may be someone else's choice
        above = next((place for place in (cache, *cache.parents) if place.exists()), cache)
        if above.is_dir() and os.access(above, os.W_OK):
            return _finding("cache", True, f"{cache}: is made by the first command that needs it")
        return _finding(
            "cache", False, f"{cache}: cannot be made; set MERGE_ADVISOR_CACHE to a folder that can be written"
        )
    try:
        # permission bits do not tell on network file systems and in containers: only writing does
        probe = cache / f".doctor-{os.getpid()}"
        probe.write_text("x")
        locks = has_locks(probe)
        probe.unlink()
        free = shutil.disk_usage(cache).free / 1e9
        kept = 0
        if store.is_file():
            # read only: looking must neither create a store nor lock that of a run under way
            with read_only(store) as connection:
                kept = connection.execute("SELECT COUNT(*) FROM deltas").fetchone()[0]
    except (OSError, sqlite3.Error) as error:
        return _finding("cache", False, f"{cache}: {error}; set MERGE_ADVISOR_CACHE to a folder that can be written")
    if not locks:
        return _finding("cache", False, f"{cache}: its disk has no locks; set MERGE_ADVISOR_CACHE to one that has them")
    kind = disk_of_others(cache)
    shared = f"; on a disk of another machine ({kind}): slower, without a write-ahead log" if kind else ""
    return _finding("cache", True, f"{cache}, {kept} deltas stored, {free:.0f} GB free{shared}")


def _hub() -> dict[str, Any]:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return _finding("hub", True, "switched off by HF_HUB_OFFLINE; cached models and folders work")
    import urllib.error
    import urllib.request

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        # the standard library, not huggingface_hub: importing that takes longer than the answer
        with urllib.request.urlopen(f"{endpoint}/api/models?limit=1", timeout=3):
            return _finding("hub", True, f"{endpoint} answers")
    except (OSError, ValueError, urllib.error.URLError) as error:
        return _finding("hub", True, f"{endpoint} cannot be reached ({error}); folders, GGUF files and the cache work")


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings = read_settings(folder)
    except MergeAdvisorError as error:
        return _finding("settings", False, str(error))
    if not settings:
        return _finding("settings", True, f"no {SETTINGS_FILE} here; `merge-advisor init` writes one")
    pool = settings.get("pool")
    if pool is not None and not Path(pool).exists():
        return _finding("settings", True, f"{SETTINGS_FILE}: pool {pool} is no path here, taken as a hub id")
    return _finding(
        "settings", True, f"{SETTINGS_FILE}: " + ", ".join(f"{key} = {value}" for key, value in settings.items())
    )


def _base(folder: Path) -> list[dict[str, Any]]:
    """What a quantised base of the settings becomes; of any other, and of one that is not fetched yet, nothing."""
    try:
        named = read_settings(folder).get("base")
        quantised = quantised_base(str(named)) if named else None
    except BaseModelError as error:
        return [_finding("base", False, str(error))]
    except MergeAdvisorError:
        return []  # what is wrong with the settings is a finding of its own
    return [] if quantised is None else [_finding("base", True, f"{named}: {quantised.sentence}")]
