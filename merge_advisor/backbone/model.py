"""A base in memory."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_advisor.backbone.device_map import base_pieces, spread_pieces
from merge_advisor.backbone.devices import BYTES, check_devices, cores, dtype_of_weights, memory_free, remedy
from merge_advisor.errors import BaseModelError
from merge_advisor.machine_options import MIXED
from merge_advisor.weights.by_transformers import model_class, naming_base, quiet, read_config, read_tokenizer
from merge_advisor.weights.parameter_map import MemoryPlace, map_parameters
from merge_advisor.weights.tensorfile import TensorFileError, open_folder

if TYPE_CHECKING:
    import torch

    from merge_advisor.templates import Template


@dataclass(eq=False)
class Backbone:
    """One base model in memory, on which candidates are placed and taken off again (see `place`).

    Its weights change inside a `with placed(...)` block; outside it is always the bare base.

    >>> backbone = load_backbone(Path("base"), threads=1)
    >>> backbone.hidden_size, backbone.encoder_decoder, backbone.dtype
    (32, False, torch.float32)
    """

    model: Any
    """The transformers model, in evaluation mode, no parameter requiring gradients."""
    tokenizer: Any
    """The transformers tokenizer, with a pad token."""
    encoder_decoder: bool
    device: torch.device
    """Where token ids go and losses are computed: the embedding's. Of a base that is spread over several, weights and
    what belongs to them lie elsewhere as well (`device_of`)."""
    dtype: torch.dtype
    places: dict[str, MemoryPlace]
    """Where each parameter of the base's safetensors files lies, by its name there."""
    memory: dict[str, torch.nn.Parameter]
    """Parameters by name in memory."""
    scratch: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)
    """Buffers that hold base + update, by name in memory, kept between candidates so that memory is taken once."""
    mixed: bool = False
    """Whether choosing and training take products in bfloat16 beside float32 weights (`precision.quick_products`)."""
    template: Template | None = None
    """The prompt template, which says how prompts begin and answers end; None: one without any tokens."""
    closing: tuple[int, ...] = ()
    """Ids of the tokens that close an answer as well as `end_id` does, that first: where its likelihood is asked for,
    what counts is that any of them comes next. Empty: `end_id` alone."""
    batch_share: float = 1.0
    """Of the usual tokens in a batch; halved where memory ran out, see `memory.within_memory`."""
    long_prompts: dict[str, Any] = field(default_factory=dict, repr=False)
    """The ends of very long prompts (`encoding.PromptIds`) by the digest of their text."""

    @property
    def hidden_size(self) -> int:
        """Width of the last hidden state, the d of Delta Activations."""
        config = self.model.config.get_text_config(decoder=True)  # of a model that takes images as well: the text's
        return int(getattr(config, "hidden_size", None) or config.d_model)

    def tokens(self, usual: int) -> int:
        """Return how many tokens a batch may have here, of the usual number.

        Args:
            usual: number where memory does.
        """
        return max(1, int(usual * self.batch_share))

    def device_of(self, name: str) -> torch.device:
        """Return the device that a parameter of the files lies on.

        Args:
            name: a key of `places`.
        """
        return self.memory[self.places[name].parameter].device

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All devices that hold a weight, in the order of the parameters; `device` alone where none is known."""
        return tuple(dict.fromkeys(parameter.device for parameter in self.memory.values())) or (self.device,)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter of the files, by its name there."""
        return {name: place.shape for name, place in self.places.items()}

    def module(self, name: str) -> torch.nn.Module | None:
        """Return the linear module that a parameter of the files is the weight of, None where it is none's or a part.

        Args:
            name: a key of `places`.
        """
        place = self.places.get(name)
        return self.model.get_submodule(place.module) if place is not None and place.module else None

    def turned(self, name: str) -> bool:
        """Return whether a weight is stored (in, out), as GPT-2's `Conv1D` does; a linear layer's is (out, in).

        Args:
            name: a key of `places`.
        """
        return type(self.module(name)).__name__ == "Conv1D"

    @property
    def end_id(self) -> int:
        """Id of the token that closes a completion: the first of `end_ids`."""
        return self.end_ids[0]

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Ids of the tokens that an answer ends before.

        The first is the special token that a chat template writes behind an answer (Gemma's `<end_of_turn>`), else the
        tokenizer's end token. Those that the base's generation_config names follow: transformers stops there as well.

        Raises:
            BaseModelError: there is none.
        """
        named = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        ends = [self.tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
        ids = [int(end) for end in ends if end is not None]
        ending = self.template.ending if self.template else ""
        written = self.tokenizer(ending, add_special_tokens=False)["input_ids"] if ending else []
        special = {*ids, *self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        if written and written[0] in special:
            ids.insert(0, int(written[0]))
        if not ids:
            raise BaseModelError("the base's tokenizer has no end token; set eos_token in its tokenizer_config.json")
        return tuple(dict.fromkeys(ids))

    @cached_property
    def lead(self) -> tuple[int, ...]:
        """Ids of what the tokenizer puts before a text, a begin token for most bases that have one; of a decoder.

        Rows get what the tokenizer adds there, as in training, and as transformers and lm-eval do; what it may add
        behind a text (an end token) they do not get.
        """
        if self.encoder_decoder:
            return ()
        plain, whole = (list(self.tokenizer("a", add_special_tokens=added)["input_ids"]) for added in (False, True))
        found = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)
        begin = self.tokenizer.bos_token_id
        if not found and begin is not None and str(getattr(self.model.config, "model_type", "")).startswith("gemma"):
            return (int(begin),)  # Gemma is nothing without it, and files that were converted may have lost the rule
        return tuple(int(token) for token in whole[:found])


def load_backbone(
    path: Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int | None = None,
    modules: Mapping[str, str] | None = None,
    template: Template | None = None,
) -> Backbone:
    """Return the base in the safetensors folder `path`, loaded into memory.

    Args:
        path: its folder, as of `weights.base.resolve_base`.
        device: "cpu", "cuda", "cuda:N", "mps", "xpu", or several CUDA devices between commas.
        dtype: "float32", "mixed" (on a CPU; see `precision`), "bfloat16" or "float16".
        threads: threads of the CPU work, never more than there are cores; None for torch's choice.
        modules: module name -> device, as `DeviceMap.modules`; None: several devices share the weights by what they
            have free.
        template: as of `Backbone`.

    Raises:
        BaseModelError: the folder cannot be loaded, the device or dtype is not there, or its memory is too small.
    """
    import torch

    if dtype not in BYTES:
        raise BaseModelError(f"dtype '{dtype}' is unknown; choose one of: {', '.join(BYTES)}")
    devices = check_devices(device)
    if dtype == MIXED and device != "cpu":
        raise BaseModelError(f"dtype '{MIXED}' is for a CPU; leave out `dtype` on {device}, or name another")
    _settle_threads(threads)
    _settle_allocator(_weight_bytes(path))
    if modules is None and len(devices) > 1:
        free = {name: memory_free(name) or 0 for name in devices}
        modules = spread_pieces(base_pieces(path, _shapes(path), dtype), free, 0).modules
    held = dtype_of_weights(dtype)
    where = {"device_map": dict(modules)} if modules else {}
    with naming_base(path), quiet():
        config = read_config(path)
        tokenizer = read_tokenizer(path)
        try:
            model = model_class(config).from_pretrained(
                path, dtype=getattr(torch, held), local_files_only=True, trust_remote_code=False, **where
            )
            model = (model if modules else model.to(device)).eval().requires_grad_(False)
        except torch.OutOfMemoryError as error:
            raise BaseModelError(
                f"base {path.name}: memory of {device} is too small for its weights in {dtype}; {remedy(device, dtype)}"
            ) from error
        inputs = input_device(model)
    release_memory()  # of reading its files
    if tokenizer.pad_token_id is None:  # any token will do: padding is masked
        tokenizer.pad_token = tokenizer.eos_token
    return Backbone(
        model=model,
        tokenizer=tokenizer,
        encoder_decoder=bool(getattr(config, "is_encoder_decoder", False)),
        device=inputs,
        dtype=getattr(torch, held),
        mixed=dtype == MIXED,
        template=template,
        places=map_parameters(model, _shapes(path)),
        memory=dict(model.named_parameters()),
    )


def _weight_bytes(path: Path) -> int:
    """Bytes of the weights in float32; 0 where they cannot be read, which loading them says."""
    try:
        return 4 * sum(math.prod(shape) for shape in _shapes(path).values())
    except TensorFileError:
        return 0


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    return {name: info.shape for name, (_, info) in open_folder(path).items()}


def input_device(model: Any) -> torch.device:
    """Return the device of a model's embedding, where what comes in goes.

    Of a model that is spread over several, accelerate is told so: it would send what comes in to any one of them,
    another one in each process. It also leaves the positions in `logits_to_keep` where they are, which is to be the
    CPU, since they are looked up where the hidden states end.

    Args:
        model: a transformers model, on one device or spread over several.
    """
    device: torch.device = model.get_input_embeddings().weight.device
    hook = getattr(model, "_hf_hook", None)
    if hook is not None:
        hook.execution_device = device
        hook.skip_keys = {*(hook.skip_keys or ()), "logits_to_keep"}
    return device


def _settle_threads(threads: int | None) -> None:
    import torch

    torch.set_num_threads(max(1, min(threads or torch.get_num_threads(), cores())))


_LARGE_BLOCK = 2**24
"""Bytes of one block of memory, at least, that glibc takes from the system and gives back each time."""
_LARGEST_BLOCK = 2**25
"""The largest limit of that kind that glibc takes."""
_BLOCK_SHARE = 32
"""Of a base's weights in float32 such a block has this part: more than what one layer computes."""


def _settle_allocator(weights: int) -> None:
    """Keep glibc from giving freed activations back to the system at every step, which can take four times as long.

    The same as MALLOC_TRIM_THRESHOLD_ and MALLOC_TOP_PAD_ in the environment (mallopt(3)), and for a small base as
    MALLOC_MMAP_THRESHOLD_: a copy of its embedding, or logits, would leave a hole that small blocks break up, so that
    the next one finds none. Of a large base activations are as large as these; there it is MALLOC_MMAP_MAX_=0.

    Args:
        weights: bytes of the base's weights in float32.
    """
    glibc = _glibc()
    if glibc is None:
        return
    block = max(_LARGE_BLOCK, weights // _BLOCK_SHARE)
    large = ((-4, 2**16), (-3, block)) if block <= _LARGEST_BLOCK else ((-4, 0),)
    for option, value in (*large, (-1, 2**31 - 1), (-2, 256 * 2**20)):
        glibc.mallopt(option, value)


def release_memory() -> None:
    """Give freed activations back to the system: too slow between two steps, worth it between two models.

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
        library = ctypes.CDLL("libc.so.6")
    except OSError:  # another C library
        return None
    return library if hasattr(library, "malloc_trim") else None
