"""A base in memory."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_advisor.errors import BaseModelError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(eq=False)
class Backbone:
    """One base model in memory, on which candidates are placed and taken off (see `place`).

    The one mutable object of the package: between two `with placed(...)` blocks it is always the bare base.
    """

    model: Any
    """The transformers model, in evaluation mode, no parameter requiring gradients."""
    tokenizer: Any
    encoder_decoder: bool
    device: torch.device
    dtype: torch.dtype
    parameters: dict[str, torch.nn.Parameter]
    """By name as in the base's safetensors files."""
    modules: dict[str, torch.nn.Module]
    """By name, e.g. "model.layers.0.self_attn.q_proj"."""
    scratch: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)
    """Buffers that hold base + update, kept between candidates so that memory is taken once."""

    @property
    def hidden_size(self) -> int:
        """Width of the last hidden state, the d of Delta Activations."""
        config = self.model.config
        return int(getattr(config, "hidden_size", None) or config.d_model)

    @property
    def end_id(self) -> int:
        """Id of the token that ends an answer."""
        found = self.tokenizer.eos_token_id
        if found is None:
            raise BaseModelError("the base's tokenizer has no end token; set eos_token in its tokenizer_config.json")
        return int(found)

    @property
    def begins(self) -> bool:
        """Whether a prompt starts with the tokenizer's begin token even where it is added to nothing else (Gemma)."""
        return str(getattr(self.model.config, "model_type", "")).startswith("gemma")


def load_backbone(path: Path, *, device: str = "cpu", dtype: str = "float32", threads: int | None = None) -> Backbone:
    """Load the base in the safetensors folder `path`.

    Args:
        path: folder, as `base.resolve_base` gives it.
        device: "cpu", "cuda" or "cuda:N".
        dtype: "float32", "bfloat16" or "float16".
        threads: threads of the CPU work; None keeps torch's choice, never more than there are cores.

    Raises:
        BaseModelError: the folder cannot be loaded, or the device or dtype is not there.
    """
    import torch
    import transformers

    if dtype not in DTYPES:
        raise BaseModelError(f"dtype '{dtype}' is unknown; choose one of: {', '.join(DTYPES)}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BaseModelError(f"device '{device}' is not there (torch sees no CUDA GPU); leave out `device`")
    _settle_threads(threads)
    _settle_allocator()
    try:
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        seq2seq = bool(getattr(config, "is_encoder_decoder", False))
        loader = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
        with quiet():
            model = loader.from_pretrained(path, dtype=getattr(torch, dtype), local_files_only=True)
            tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        model = model.to(device).eval().requires_grad_(False)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseModelError(f"base {path.name}: cannot be loaded ({reason}); check the folder's files") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Backbone(
        model=model,
        tokenizer=tokenizer,
        encoder_decoder=seq2seq,
        device=torch.device(device),
        dtype=getattr(torch, dtype),
        parameters=dict(model.named_parameters()),
        modules=dict(model.named_modules()),
    )


def cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _settle_threads(threads: int | None) -> None:
    import torch

    torch.set_num_threads(max(1, min(threads or torch.get_num_threads(), cores())))


def _settle_allocator() -> None:
    """Keep glibc from giving freed activations back to the system at every step: that costs up to four times here.

    The same as MALLOC_MMAP_MAX_=0, MALLOC_TRIM_THRESHOLD_ and MALLOC_TOP_PAD_ in the environment (mallopt(3)).
    """
    glibc = _glibc()
    if glibc is not None:
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 256 * 2**20)):
            glibc.mallopt(option, value)


def release_memory() -> None:
    """Give freed activations back to the system after all: between two steps that costs, between two models it saves.

    Batches of many lengths leave gaps; without this a process that finetunes again and again grows by gigabytes.
    """
    glibc = _glibc()
    if glibc is not None:
        glibc.malloc_trim(0)


def _glibc() -> Any | None:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    try:
        found = ctypes.CDLL("libc.so.6")
    except OSError:  # another C library
        return None
    return found if hasattr(found, "malloc_trim") else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and advice while a model is loaded."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            with warnings.catch_warnings(action="ignore"):  # HF_HUB_DISABLE_PROGRESS_BARS has the last word
                logging.enable_progress_bar()
