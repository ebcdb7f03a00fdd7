"""Several devices on a machine that has none: tensors that lie on a device of their own, and stay there.

torch lets a tensor subclass name a device. One of these names "cpu:1" or "cpu:2", holds its numbers in a plain tensor,
and computes with them by the kernels of the CPU, so that results can be compared bit by bit with those of one device.
What the tensors take part in is refused as CUDA refuses it: operands on two devices, a scalar of the CPU and an index
of the CPU excepted; numbers read without `.cpu()`. Autograd, optimisers, transformers and accelerate see the device
that is named, in the backward pass as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten: Any = torch.ops.aten
_MOVES = (aten._to_copy.default, aten.copy_.default)
"""What may read from one device and write to another."""
_INDEXES = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
"""What takes positions from the CPU for a tensor on any device."""


class DevicesMixed(RuntimeError):
    """An operation took tensors of two devices; CUDA's own error is a RuntimeError as well."""


class PretendedTensor(torch.Tensor):  # type: ignore[misc]
    """A tensor that says it lies on "cpu:1" or another numbered CPU; `held` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls: type[PretendedTensor], held: torch.Tensor, device: torch.device) -> PretendedTensor:
        make: Any = torch.Tensor._make_wrapper_subclass
        made: PretendedTensor = make(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=device,
        )  # fmt: skip
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"PretendedTensor({self.held}, device={self.device})"

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        if not isinstance(value, PretendedTensor) or value.device != self.device:
            raise DevicesMixed(f"a parameter on {self.device} was given storage on {value.device}")
        self.held = value.held

    def data_ptr(self) -> int:
        return int(self.held.data_ptr())

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"a tensor on {self.device} cannot be read: use Tensor.cpu() first")

    def tolist(self) -> Any:  # torch copies to the CPU itself
        return self.held.tolist()


class _Computed(TorchDispatchMode):  # type: ignore[misc]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._can_decompose():  # in inference mode `to`, `matmul` and the like come whole
            with self:
                return func.decompose(*args, **(kwargs or {}))
        return _computed(func, args, kwargs or {})


class _Made(TorchFunctionMode):  # type: ignore[misc]
    """`torch.tensor` leaves what it made where it is, on any CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") is not None:
            return func(*args, **{**kwargs, "device": None}).to(kwargs["device"])
        return func(*args, **kwargs)


@contextmanager
def pretended_devices() -> Iterator[None]:
    """While it is entered, "cpu:1", "cpu:2" and so on are devices of their own, and "cpu" another one."""
    with _Computed(), _Made():
        yield


def _computed(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """Run an operation on the numbers; its results lie where its operands do, or where it was told to put them."""
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    device = _device_of(func, args, tensors)
    if kwargs.get("device") is not None:
        device = torch.device(kwargs["device"])
        kwargs = {**kwargs, "device": torch.device("cpu") if device.type == "cpu" else device}
    on_host = device.type != "cpu" or device.index is None
    known = {id(one.held): one for one in tensors if isinstance(one, PretendedTensor)}

    def wrapped(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, PretendedTensor):
            return value
        if id(value) in known:  # changed in place: the tensor that was given
            return known[id(value)]
        if on_host:
            return value
        return PretendedTensor(value, device)

    with torch.inference_mode(False), torch.no_grad():  # views of what was made in another mode are made in all modes
        result = func(*tree_map(_held, args), **tree_map(_held, dict(kwargs)))
        return tree_map(wrapped, result)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, PretendedTensor) else value


def _device_of(func: Any, args: Any, tensors: list[torch.Tensor]) -> torch.device:
    """The one device that the operands share; the first one's, which is where `copy_` writes, of what moves."""
    if func in _MOVES:
        return tensors[0].device
    scalars = [one for one in tensors if not one.dim() and not isinstance(one, PretendedTensor)]
    operands = [one for one in tensors if not any(one is scalar for scalar in scalars)]
    if func in _INDEXES:
        positions = [one for one in tree_flatten(args[1])[0] if isinstance(one, torch.Tensor)]
        free = [one for one in positions if not isinstance(one, PretendedTensor)]
        operands = [one for one in operands if not any(one is place for place in free)]
    devices = sorted({str(one.device) for one in operands})
    if len(devices) > 1:
        shapes = ", ".join(f"{tuple(one.shape)} on {one.device}" for one in tensors)
        raise DevicesMixed(f"{func}: expected all tensors to be on one device, found {' and '.join(devices)}: {shapes}")
    first = operands or tensors
    return first[0].device if first else torch.device("cpu")
