"""The base model as a safetensors folder on this machine, whatever it was named by: folder, GGUF file or hub id."""

from __future__ import annotations

import contextlib
import functools
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_advisor.errors import BaseModelError, InputError, OfflineError, RunError
from merge_advisor.types import Base, digest_of
from merge_advisor.weights import hub
from merge_advisor.weights.checkpoint import config_meaning, weights_digests
from merge_advisor.weights.files import FileError, Hashes, file_digest, read_json
from merge_advisor.weights.naming import model_prefix, short
from merge_advisor.weights.tensorfile import Located, open_folder
from merge_advisor.whole_files import whole_folder

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
    """A base that is here, as transformers' `from_pretrained` takes it."""

    base: Base
    path: Path
    """Folder of config.json, tokenizer and safetensors weights."""
    shapes: dict[str, tuple[int, ...]]
    """Parameter name, as in the weight files, -> shape; tied copies may be absent."""
    config: dict[str, Any]
    """config.json."""

    @property
    def prefix(self) -> str:
        """What the names in the weight files lack of the names in memory: see `naming.model_prefix`."""
        return model_prefix(self.config, self.shapes)


def resolve_base(
    ref: str, *, revision: str | None = None, offline: bool = False, cache: Path, hashes: Hashes | None = None
) -> LocalBase:
    """Find a base: a folder, a `.gguf` file (dequantised once into `cache`), or a hub id `org/name[@revision]`.

    Hub files go to the hub's own cache. `hashes` remembers file hashes; keep it between runs.

    Raises:
        BaseModelError: absent, unreadable, pickle weights alone, or no such hub id or revision.
        OfflineError: it would have to be fetched and `offline` (or HF_HUB_OFFLINE) forbids it.
        ExternalError: the hub cannot be reached.
    """
    hashes = {} if hashes is None else hashes
    path = Path(ref).expanduser()
    model = hub.parse_id(ref)
    try:
        if path.is_dir():
            return _open(path.absolute(), path.resolve().name, None, hashes)
        if path.is_file():
            if path.suffix.lower() != ".gguf":
                raise BaseModelError(f"base {ref}: is neither a folder nor a .gguf file; name the model's folder")
            return _open(_dequantised(path, cache, hashes), path.name, None, hashes)
        if model is None:
            raise BaseModelError(f"base {ref}: no such folder or file; name one, or a hub id like org/name")
        wanted = hub.HubId(model.repo, revision or model.revision)
        snapshot = hub.fetch_snapshot(wanted, HUB_PATTERNS, offline=offline)
        return _open(snapshot.path, model.repo, snapshot.revision, hashes)
    except FileError as error:
        raise BaseModelError(f"base {ref}: {error}") from error
    except OfflineError as error:
        raise OfflineError(f"base {error}") from error
    except BaseModelError:
        raise
    except InputError as error:
        raise BaseModelError(f"base {error}") from error
    except OSError as error:
        raise BaseModelError(f"base {ref}: {error.strerror or error}; check the disk and its permissions") from error


def _open(path: Path, name: str, revision: str | None, hashes: Hashes) -> LocalBase:
    if not (path / "config.json").exists():
        if (path / "adapter_config.json").exists():
            raise FileError("adapter_config.json: this is an adapter, not a base; name it by --pool")
        if files := sorted(path.glob("*.gguf")):
            raise FileError(f"{files[0].name}: a GGUF file is named by itself; name {name}/{files[0].name}")
    config = read_json(path / "config.json")
    located = open_folder(path)
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise FileError("config.json: has no architectures; fetch the model again")
    if config.get("quantization_config"):
        raise FileError("config.json: its weights are quantised; name an unquantised form, or a GGUF file")
    base = Base(name, revision, _digest(path, config, located, hashes), short(architectures[0]))
    return LocalBase(base, path, {name: info.shape for name, (_, info) in located.items() if info.is_float}, config)


def _digest(path: Path, config: dict[str, Any], located: Located, hashes: Hashes) -> str:
    """Sha256 over configuration (without versions and paths), tokenizer files and weight files."""
    tokenizer = {name: file_digest(path / name, hashes) for name in TOKENIZER_FILES if (path / name).is_file()}
    return digest_of([config_meaning(config), tokenizer, weights_digests(located, hashes)])


def _dequantised(path: Path, cache: Path, hashes: Hashes) -> Path:
    """Return the folder of float32 weights made from a GGUF file, made now if it is not there."""
    folder = cache.absolute() / file_digest(path, hashes)
    if not folder.exists():
        try:
            with whole_folder(folder) as partial:
                _dequantise(path, partial)
        except RunError:
            if not folder.exists():  # else another process was first with the same
                raise
    return folder


def _dequantise(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    with _quiet_unless_terminal(), _read_once():
        try:
            config = AutoConfig.from_pretrained(**place)
            kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            model = kind.from_pretrained(**place, config=config, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(**place)
        except Exception as error:  # the reader raises whatever a bad file makes it stumble over
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise FileError(
                f"cannot be read as GGUF ({reason}); fetch it again, or name a safetensors folder"
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
    """Have transformers read the header of a GGUF file once, which takes seconds, not for each part of the model."""
    import gguf

    reader = gguf.GGUFReader
    gguf.GGUFReader = functools.cache(reader)
    try:
        yield
    finally:
        gguf.GGUFReader = reader


@contextlib.contextmanager
def _quiet_unless_terminal() -> Iterator[None]:
    """Keep the reader's progress bars off stderr where nobody watches; a failure still raises."""
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
