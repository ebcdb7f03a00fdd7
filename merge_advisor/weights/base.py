"""The base model as a safetensors folder on this machine, given as a folder, a GGUF file or a hub id."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_advisor.errors import BaseModelError, InputError, OfflineError, RunError
from merge_advisor.json_form import digest_of
from merge_advisor.limits import TOKENIZER_BYTES
from merge_advisor.plain_text import short_name
from merge_advisor.progress import Progress, quiet_progress
from merge_advisor.regular_files import home_expanded
from merge_advisor.types import Base
from merge_advisor.weights import hub
from merge_advisor.weights.by_transformers import model_class
from merge_advisor.weights.checkpoint import config_meaning, weights_digests
from merge_advisor.weights.dequantised import (
    QuantisedModel,
    dequantised_copy,
    look_at_quantised,
    made_once,
    said_of_copy,
)
from merge_advisor.weights.files import FileError, Hashes, file_digest, read_json
from merge_advisor.weights.gguf_header import check_gguf_header
from merge_advisor.weights.parameter_map import BaseShapes
from merge_advisor.weights.tensorfile import Located, open_folder

TOKENIZER_FILES = (
    "added_tokens.json", "chat_template.jinja", "merges.txt", "special_tokens_map.json", "spiece.model",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
)  # fmt: skip
HUB_PATTERNS = (
    "config.json", "generation_config.json", "model.safetensors", "model-*.safetensors",
    "model.safetensors.index.json", *TOKENIZER_FILES,
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class LocalBase:
    """A base on this machine, as transformers' `from_pretrained` takes it.

    >>> local = resolve_base("base", cache=Path("cache"))
    >>> local.base.architecture, local.shapes["model.layers.0.self_attn.v_proj.weight"]
    ('LlamaForCausalLM', (16, 32))
    """

    base: Base
    path: Path
    """Folder of config.json, tokenizer and safetensors weights."""
    shapes: BaseShapes
    """By parameter name, as in the weight files; tied copies may be absent."""
    config: dict[str, Any]
    """config.json."""
    dequantised: str = ""
    """Of a base whose weights are quantised, what is said of the copy that `path` is; "" where they are not."""


def resolve_base(
    ref: str,
    *,
    offline: bool = False,
    cache: Path,
    hashes: Hashes | None = None,
    progress: Progress = quiet_progress,
) -> LocalBase:
    """Return a base by its folder, its `.gguf` file or its hub id, fetched and dequantised where it has to be.

    Args:
        ref: a folder, a `.gguf` file, or a hub id `org/name[@revision]`. Hub files go to the hub's own cache.
        offline: never fetch.
        cache: folder for the weights of GGUF files and of quantised models, dequantised once.
        hashes: a memo of file hashes; keep it between runs.
        progress: called with (what, done, total) while a quantised model is dequantised.

    Raises:
        BaseModelError: absent, unreadable, with pickle weights only, or no such hub id or revision.
        OfflineError: it would have to be fetched and `offline` (or HF_HUB_OFFLINE) forbids it.
        ExternalError: the hub cannot be reached.
    """
    hashes = {} if hashes is None else hashes
    path = home_expanded(ref)
    model = hub.parse_id(ref)
    try:
        if path.is_dir():
            # a link is called what its owner called it, not what the cache that it leads to calls a digest
            name = Path(os.path.normpath(path.absolute())).name
            return _open_plain(path.absolute(), name, None, cache, hashes, progress)
        if path.is_file():
            if path.suffix.lower() != ".gguf":
                raise BaseModelError(f"base {ref}: is neither a folder nor a .gguf file; give the model's folder")
            folder = cache.absolute() / file_digest(path, hashes)
            made_once(folder, lambda partial: _dequantise(path, partial))
            return _open(folder, path.name, None, hashes)
        if model is None:
            raise BaseModelError(f"base {ref}: no such folder or file; give one, or a hub id like org/name")
        snapshot = hub.fetch_snapshot(model, HUB_PATTERNS, offline=offline)
        return _open_plain(snapshot.path, model.repo, snapshot.revision, cache, hashes, progress)
    except FileError as error:
        raise BaseModelError(f"base {ref}: {error}") from error
    except OfflineError as error:
        raise OfflineError(f"base {error}") from error
    except (BaseModelError, RunError):  # what cannot be kept is not the base's fault
        raise
    except InputError as error:
        raise BaseModelError(f"base {error}") from error
    except OSError as error:
        raise BaseModelError(f"base {ref}: {error.strerror or error}; check the disk and its permissions") from error


def quantised_base(ref: str) -> QuantisedModel | None:
    """Return what is quantised in a base that is on this machine; None where nothing is, or it is not here.

    Args:
        ref: as `resolve_base` takes it.

    Raises:
        BaseModelError: it cannot be read, or is quantised in a way that is not read here.
    """
    path, model = home_expanded(ref), hub.parse_id(ref)
    try:
        if not path.exists() and model is not None:
            path = hub.fetch_snapshot(model, HUB_PATTERNS, offline=True).path
        return look_at_quantised(path)
    except FileError as error:
        raise BaseModelError(f"base {ref}: {error}") from error
    except OfflineError:
        return None


def _open_plain(
    path: Path, name: str, revision: str | None, cache: Path, hashes: Hashes, progress: Progress
) -> LocalBase:
    """The base in a folder, dequantised where its weights are quantised."""
    quantised = look_at_quantised(path)
    if quantised is None:
        return _open(path, name, revision, hashes)
    digest = _digest(path, quantised.config, quantised.located, hashes)
    copy = dequantised_copy(quantised, cache.absolute() / digest, progress)
    return _open(copy, name, revision, hashes)


def _open(path: Path, name: str, revision: str | None, hashes: Hashes) -> LocalBase:
    if not (path / "config.json").exists():
        if (path / "adapter_config.json").exists():
            raise FileError("adapter_config.json: this is an adapter, not a base; give it as `pool`")
        if files := sorted(path.glob("*.gguf")):
            raise FileError(f"{files[0].name}: a GGUF base is given by its file; give {name}/{files[0].name}")
    config = read_json(path / "config.json")
    _check_numbers(config)
    _check_tokenizer(path)
    located = open_folder(path)
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise FileError("config.json: has no architectures; fetch the model again")
    if config.get("model_type") == "rwkv":
        raise FileError("config.json: RWKV's weights change as transformers runs it; choose a base of another kind")
    base = Base(name, revision, _digest(path, config, located, hashes), short_name(architectures[0]))
    floats = {name: info.shape for name, (_, info) in located.items() if info.is_float}
    said = said_of_copy(path)
    dequantised = said and f"base {name}: {said}; merges are written into these weights, and are not quantised again"
    return LocalBase(base, path, BaseShapes(floats, path, config), config, dequantised)


_SIZES = ("hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "d_model", "n_embd", "n_layer")
"""Numbers of a configuration that others are computed from, under the names that families of models give them."""
_KINDS = {"model_type": str, "text_config": dict, "tokenizer_class": str, "dtype": str, "torch_dtype": str}
"""What is asked for by name of a configuration, and what it is where it is there."""


def _check_numbers(config: dict[str, Any], where: str = "config.json") -> None:
    """Refuse numbers that JSON has no form for, and sizes that are none, before anything is computed from them."""
    for name, value in config.items():
        if name in _SIZES and value is not None and (type(value) is not int or value < 1):
            raise FileError(f"{where}: {name} is {short_name(repr(value))}, no size; fetch the model again")
        if name in _KINDS and value is not None and not isinstance(value, _KINDS[name]):
            raise FileError(f"{where}: {name} is {short_name(repr(value))}, which it cannot be; fetch the model again")
        if isinstance(value, dict):
            _check_numbers(value, f"{where}: {short_name(name)}")
        elif isinstance(value, float) and not math.isfinite(value):
            raise FileError(f"{where}: {short_name(name)} is {value}; fetch the model again")


def _check_tokenizer(folder: Path) -> None:
    """Refuse files of a tokenizer beyond their limit before transformers, or anything else, reads them."""
    for name in TOKENIZER_FILES:
        file = folder / name
        if file.is_file() and (size := file.stat().st_size) > TOKENIZER_BYTES.most:
            remedy = f"fetch the model again; if it is right, {TOKENIZER_BYTES.remedy(size)}"
            raise FileError(f"{name}: has {TOKENIZER_BYTES.over}; {remedy}")


def _digest(path: Path, config: dict[str, Any], located: Located, hashes: Hashes) -> str:
    """Sha256 over configuration (without versions and paths), tokenizer files and weight files."""
    tokenizer = {name: file_digest(path / name, hashes) for name in TOKENIZER_FILES if (path / name).is_file()}
    return digest_of([config_meaning(config), tokenizer, weights_digests(located, hashes)])


def _dequantise(path: Path, folder: Path) -> None:
    check_gguf_header(path)
    import torch
    from transformers import AutoConfig, AutoTokenizer

    place = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name, "trust_remote_code": False}
    with _quiet_unless_terminal(), _read_once():
        try:
            config = AutoConfig.from_pretrained(**place)
            model = model_class(config).from_pretrained(**place, config=config, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(**place)
        except Exception as error:  # on a bad file the reader may raise anything
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise FileError(
                f"cannot be read as GGUF ({reason}); fetch it again, or give a safetensors folder"
            ) from error
        # the weights are plain float32 now; these marks would make transformers look for quantised ones
        for mark in ("quantization_config", "_pre_quantization_dtype"):
            if hasattr(model.config, mark):
                delattr(model.config, mark)
        model.hf_quantizer = None
        model.is_quantized = False
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _read_once() -> Iterator[None]:
    """Have transformers read a GGUF file's header once: it takes seconds, and is read anew for each part of a model."""
    import gguf

    reader = gguf.GGUFReader
    gguf.GGUFReader = functools.cache(reader)
    try:
        yield
    finally:
        gguf.GGUFReader = reader


@contextlib.contextmanager
def _quiet_unless_terminal() -> Iterator[None]:
    """Keep the reader's progress bars off stderr unless it is a terminal; a failure still raises."""
    if sys.stderr.isatty():
        yield
        return
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
