"""The child process of `merged_by_peft`: it has PEFT merge adapters into their base, and writes what changed.

A program of its own (`python -I peft_child.py`), which imports nothing of this package. A job comes on stdin as JSON,
`{"base": folder, "loader": class, "jobs": [[adapter, file], ...], "parts": {parameter: [[name, shape, stride, offset],
...]}}`, where `loader` names the class of transformers that loads the base, and `parts` says which parameters of the
base's files one in memory is made of (the experts of a mixture). Each adapter gets
a JSON line on stdout, `{"updates": [...]}` or `{"error": reason, "final": whether another try would say the same}`. A
process that dies leaves the lines of what it had finished.

A change is written as factors where it has some: where what is left beside them is no more than the rounding of the
weight itself in float32. Only safetensors are read; the process has no network where the system allows it to give that
up, opens no sockets, starts no programs, and no pickle can name anything to call.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

FACTORS, DENSE = "factors", "dense"
"""Forms of an update: tensors `N.a` and `N.b`, or `N.dense`, N being its place in the report."""
_FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "subprocess.", "os.exec",
              "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pty.", "webbrowser.", "urllib.",
              "pickle.find_class")  # fmt: skip
"""Audit events (or what they begin with) that end a job."""
_EPSILON = 2.0**-23
"""Distance of 1 to the next float32."""
_RANKS = (8, 32, 128, 512)
"""Ranks that are tried; a change of a larger one is dense."""
_OF_IMAGES = ("image", "video", "vision", "audio", "boi", "eoi")
"""How settings begin that name tokens which stand for something else than text."""
_TOKENS = 24
"""Tokens of the text on which merged and unmerged model are compared."""


class CannotMergeError(Exception):
    """An adapter that is not merged; the message is the reason, and would be the same another time.

    >>> raise CannotMergeError("changes nothing")
    Traceback (most recent call last):
    merge_advisor.pool.peft_child.CannotMergeError: changes nothing
    """


def merge_jobs() -> None:
    """Merge the adapters that stdin lists, one JSON line on stdout for each."""
    asked = json.load(sys.stdin)
    lines, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no report
    _leave_network()
    import peft

    _ = peft.PeftModel  # imported before the limits hold
    sys.addaudithook(_forbid)
    for adapter, target in asked["jobs"]:
        base = (Path(asked["base"]), asked["loader"])
        lines.write(json.dumps(report_on(base, Path(adapter), Path(target), asked["parts"])) + "\n")
        lines.flush()


def report_on(base: tuple[Path, str], adapter: Path, target: Path, parts: dict[str, Any]) -> dict[str, Any]:
    """Return the report on one adapter, which is merged on the way; what it changes is written to a file.

    Args:
        base: folder of the base, and the class of transformers that loads it.
        adapter: folder of `adapter_config.json` and `adapter_model.safetensors` alone.
        target: file for the tensors.
        parts: of parameters in memory that the base's files hold as several.
    """
    import peft
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)  # for each anew: what PEFT draws does not depend on what else is merged
    try:
        unknown = _unknown_settings(adapter)
        updates, tensors = merged_updates(base, adapter, parts)
        save_file(tensors, target, metadata={"format": "pt"})
        return {"updates": updates, "peft": peft.__version__, "unknown": unknown}
    except CannotMergeError as error:
        return {"error": str(error), "final": True}
    except (MemoryError, OSError) as error:
        return {"error": _line(error), "final": False}
    except Exception as error:  # whatever an odd configuration makes PEFT raise
        final = "memory" not in str(error).lower()
        return {"error": f"PEFT {peft.__version__} says: {_line(error)}", "final": final}


def _unknown_settings(adapter: Path) -> list[str]:
    """Settings that the installed PEFT does not know, and passes over.

    Raises:
        CannotMergeError: it does not know the kind of adapter at all.
    """
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    config = json.loads((adapter / "adapter_config.json").read_bytes())
    kind = str(config.get("peft_type"))
    known = {str(getattr(name, "value", name)): cls for name, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if kind not in known:
        raise CannotMergeError(
            f"peft_type {kind[:40]!r} is no kind that PEFT {peft.__version__} knows; install a newer PEFT, or merge "
            "the adapter where it was trained and list the result as a checkpoint"
        )
    fields = known[kind].__dataclass_fields__
    return sorted(key for key, value in config.items() if key not in fields and value)


def merged_updates(
    base: tuple[Path, str], adapter: Path, parts: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return what PEFT's merge of an adapter changes of its base.

    Args:
        base: folder of the base, and the class of transformers that loads it.
        adapter: folder of `adapter_config.json` and `adapter_model.safetensors` alone.
        parts: of parameters in memory that the base's files hold as several.

    Returns:
        For each changed parameter its names (several where the base ties it), `form` and `transposed`; and the tensors
        `N.a` (r, in) and `N.b` (out, r), or `N.dense`, float32.

    Raises:
        CannotMergeError: PEFT loads it in part, merges it to another model than it is beside the base, or changes what
            the base has no parameter for.
    """
    model = _load(*base, "float32")
    ids = _probe(model, adapter)
    plain = _logits(model, ids)
    adapted = _adapted(model, adapter)
    beside = _logits(adapted, ids)
    merged = adapted.merge_and_unload(safe_merge=True).eval()
    _check_same(plain, beside, _logits(merged, ids), on_tied=_changes_tied(model, adapter))
    return _changes(_load(*base, "auto"), merged, parts)


def _load(base: Path, loader: str, dtype: str) -> Any:
    import transformers

    model = getattr(transformers, loader).from_pretrained(
        base, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    return model.eval().requires_grad_(False)


def _adapted(model: Any, adapter: Path) -> Any:
    """The base with the adapter beside it, every tensor of which PEFT has put in its place."""
    import peft

    loaded: list[Any] = []
    load = peft.PeftModel.load_adapter

    def remembering(*args: Any, **named: Any) -> Any:
        loaded.append(load(*args, **named))
        return loaded[-1]

    peft.PeftModel.load_adapter = remembering
    try:
        adapted = peft.PeftModel.from_pretrained(model, adapter, is_trainable=False).eval()
    finally:
        peft.PeftModel.load_adapter = load
    for result in loaded:
        if result.unexpected_keys:
            key = min(result.unexpected_keys)
            raise CannotMergeError(
                f"PEFT passes over {len(result.unexpected_keys)} of its tensors, e.g. {key[:100]}; save it again from "
                "the model that PEFT wrapped"
            )
        if missing := _really_missing(adapted, result.missing_keys):
            key = min(missing)
            raise CannotMergeError(f"lacks tensors that its configuration asks for, e.g. {key[:100]}; save it again")
    if not hasattr(adapted.base_model, "merge_and_unload"):
        raise CannotMergeError("PEFT cannot merge this kind of adapter; take another, or train it as LoRA")
    return adapted


def _really_missing(adapted: Any, keys: list[str]) -> list[str]:
    """Of the tensors that PEFT misses those that it has under no other name: a bank of vectors is saved once."""
    named = dict(adapted.named_parameters(remove_duplicate=False)) | dict(adapted.named_buffers(remove_duplicate=False))
    there = {id(tensor) for name, tensor in named.items() if name not in keys}
    return [key for key in keys if key not in named or id(named[key]) not in there]


def _probe(model: Any, adapter: Path) -> Any:
    """Two rows of token ids, those that the adapter trains among them."""
    import torch

    size = model.get_input_embeddings().num_embeddings
    ids = torch.randint(0, size, (2, _TOKENS), generator=torch.Generator().manual_seed(0))
    settings = model.config.to_dict()
    for key in (key for key in settings if key.startswith(_OF_IMAGES) and "_token_i" in key):
        ids[ids == settings[key]] = settings.get("pad_token_id") or 0  # it would stand for an image that is not there
    config = json.loads((adapter / "adapter_config.json").read_bytes())
    trained = config.get("trainable_token_indices") or config.get("token_indices") or []
    if isinstance(trained, dict):
        trained = [token for tokens in trained.values() for token in tokens]
    for place, token in enumerate(trained[: _TOKENS - 1]):
        ids[0, place] = token
    return ids


def _logits(model: Any, ids: Any) -> Any:
    import torch

    named = {"decoder_input_ids": ids} if getattr(model.config, "is_encoder_decoder", False) else {}
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False, **named).logits.float()


def _changes_tied(model: Any, adapter: Path) -> bool:
    """Whether an adapter changes the embedding of a base whose output head is the same weight."""
    config = json.loads((adapter / "adapter_config.json").read_bytes())
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or head.weight is not embedding.weight:
        return False
    end = next(name for name, module in model.named_modules() if module is embedding).rpartition(".")[2]
    return end in str([config.get(name) for name in ("target_modules", "modules_to_save", "trainable_token_indices")])


def _check_same(plain: Any, beside: Any, merged: Any, *, on_tied: bool) -> None:
    """Refuse an adapter that PEFT merges to another model than it is, as on a head that is tied to the embedding."""
    import torch

    if merged.shape != beside.shape:
        raise CannotMergeError("gives another number of outputs than the base; give the base it was trained on")
    if not torch.isfinite(merged).all():
        raise CannotMergeError("gives NaN or infinity; its training failed, take another adapter")
    effect = max(float((beside - plain).abs().max()), float((merged - plain).abs().max()))
    apart, size = float((beside - merged).abs().max()), float(plain.abs().max())
    if apart > 0.01 * effect + 1e-4 * size:
        if on_tied:
            raise CannotMergeError(
                "changes the embedding apart from the output head, which in this base are one weight: merged, it "
                "would change both; train it whole and tied (PEFT: modules_to_save with ensure_weight_tying), or on a "
                "base that has a head of its own"
            )
        raise CannotMergeError(
            f"merged, it is another model than beside the base (logits differ by {apart:.3g} of {effect:.3g}); it "
            "works beside a model only, take another adapter"
        )


def _changes(original: Any, merged: Any, parts: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    import torch

    before = dict(original.named_parameters(remove_duplicate=False))
    after = dict(merged.named_parameters(remove_duplicate=False))
    if before.keys() != after.keys():
        name = min(before.keys() ^ after.keys())
        raise CannotMergeError(f"merged, it has other parameters than the base, e.g. {name}; {_ELSEWHERE}")
    tied: dict[int, list[str]] = {}
    for name, parameter in before.items():
        tied.setdefault(id(parameter), []).append(name)
    updates: list[dict[str, Any]] = []
    tensors: dict[str, Any] = {}
    for names in tied.values():
        old, new = before[names[0]].detach().float(), after[names[0]].detach().float()
        if old.shape != new.shape:
            sizes = " to ".join("x".join(map(str, tensor.shape)) for tensor in (old, new))
            raise CannotMergeError(f"resizes {names[0]} from {sizes}; {_ELSEWHERE}")
        if not all(torch.equal(new, after[name].detach().float()) for name in names[1:]):
            raise CannotMergeError(
                f"changes {names[0]} and {names[1]} apart, which in this base are one; give a base that has both "
                "(tie_word_embeddings false), or train it with them tied"
            )
        change = new - old
        if not torch.isfinite(change).all():
            raise CannotMergeError(f"{names[0]} holds NaN or infinity; its training failed, take another adapter")
        for part_names, part, whole, kind in _parts_of(names, change, new, original, parts):
            if part.any():
                form, found = _form(part, whole, kind)
                tensors |= {f"{len(updates)}.{side}": tensor.contiguous() for side, tensor in found.items()}
                updates.append({"names": part_names, "form": form, "transposed": form == FACTORS and kind == "conv1d"})
    if not updates:
        raise CannotMergeError("changes nothing; it was saved before training, take another adapter")
    return updates, tensors


def _parts_of(
    names: list[str], change: Any, new: Any, original: Any, parts: dict[str, Any]
) -> list[tuple[list[str], Any, Any, str]]:
    """A change and the merged weight as the base's files hold them: (names, change, weight, kind of layer)."""
    if names[0] not in parts:
        return [(names, change, new, _kind_of(original, names[0]))]
    change, new = change.contiguous(), new.contiguous()
    return [
        ([name], change.as_strided(shape, stride, offset), new.as_strided(shape, stride, offset), "linear")
        for name, shape, stride, offset in parts[names[0]]
    ]


_ELSEWHERE = "give the base it was trained on, or merge it there and list the result as a base"


def _kind_of(model: Any, name: str) -> str:
    """Return "linear" or "conv1d" (stored as (in, out)) for the weight of such a layer, else ""."""
    import torch
    from transformers.pytorch_utils import Conv1D

    place, _, last = name.rpartition(".")
    module = model.get_submodule(place)
    if last != "weight":
        return ""
    return "linear" if isinstance(module, torch.nn.Linear) else "conv1d" if isinstance(module, Conv1D) else ""


def _form(change: Any, new: Any, kind: str) -> tuple[str, dict[str, Any]]:
    """A change of a linear layer as factors of the least rank that leaves no more than rounding, else as it is."""
    if kind:
        laid = change.T if kind == "conv1d" else change
        # half a step of float32 at most in each entry of the sum, and what the product of the factors rounds
        allowed = _EPSILON * (float(new.norm()) + 8 * float(change.norm()))
        factors = low_rank(laid, allowed)
        if factors is not None:
            return FACTORS, {"a": factors[0], "b": factors[1]}
    return DENSE, {"dense": change}


def low_rank(change: Any, allowed: float) -> tuple[Any, Any] | None:
    """Return A (r, in) and B (out, r), float32, of the least r where B·A is within `allowed` of a matrix.

    None where these would not be half as large as the matrix, or r is above 512. A range is found at random (Halko,
    Martinsson and Tropp, arXiv 0909.4061), the singular values in it are exact.

    >>> import torch
    >>> a, b = low_rank(torch.ones(64, 64), allowed=1e-4)
    >>> a.shape, bool((b @ a - 1).abs().max() < 1e-6)
    (torch.Size([1, 64]), True)

    Args:
        change: (out, in), a tensor.
        allowed: Frobenius norm of what may be left.
    """
    import torch

    matrix = change.double() if change.numel() <= 2**22 else change.float()
    out, width = matrix.shape
    most = min((out * width) // (2 * (out + width)), _RANKS[-1])
    chance = torch.Generator().manual_seed(0)
    tried = 0
    for rank in (min(rank, most) for rank in _RANKS):
        if rank <= tried:
            break
        tried = rank
        start = torch.randn(width, min(rank + 8, out, width), generator=chance, dtype=matrix.dtype)
        basis = torch.linalg.qr(matrix @ start)[0]
        basis = torch.linalg.qr(matrix @ (matrix.T @ basis))[0]  # once more, so that small values are found as well
        inner = basis.T @ matrix
        left, values, right = torch.linalg.svd(inner, full_matrices=False)
        outside = float((matrix - basis @ inner).square().sum())
        tails = [*values.square().flip(0).cumsum(0).flip(0).tolist(), 0.0]
        found = next((r for r in range(1, rank + 1) if r < len(tails) and outside + tails[r] <= allowed**2), None)
        if found is not None:
            roots = values[:found].sqrt()
            return (roots[:, None] * right[:found]).float(), (basis @ left[:, :found] * roots).float()
    return None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:240].rstrip(". ") or type(error).__name__


def _leave_network() -> None:
    """Move into a network namespace with nothing in it; Linux, where unprivileged users may."""
    with contextlib.suppress(Exception):
        import ctypes

        new_user, new_network = 0x10000000, 0x40000000
        library = ctypes.CDLL(None, use_errno=True)
        if library.unshare(new_network) != 0:
            library.unshare(new_user | new_network)


def _forbid(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse, for the rest of the process, what merging tensors does not need."""
    if event.startswith(_FORBIDDEN):
        raise CannotMergeError(f"it tried {event} {str(arguments)[:80]}")


if __name__ == "__main__":
    merge_jobs()
