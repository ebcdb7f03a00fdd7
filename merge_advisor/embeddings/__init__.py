"""Representations of a model: what a delta is. One file each.

An embedding is a frozen dataclass (its fields are its parameters, see `registry`) with class attributes and methods:

    name, layer, pooling: ClassVar[str]   registered name; what is read and how it is pooled (part of the space)
    source: ClassVar[str]                 paper and section the definition comes from
    def probes(self) -> tuple[str, ...]                              the texts it runs (they are part of the space)
    forwards: int                                                    forward passes over one row that it costs
    def dim(self, config) -> int                                     d, from the base's config.json alone
    def features(self, backbone) -> (d,) float32                      of the model as it stands in memory
    def features_together(self, backbone, copies) -> (copies, d)      optional: several adapters in one forward

A delta is features(finetuned) - features(base).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from merge_advisor.arrays import Float32Array
    from merge_advisor.backbone.model import Backbone

__all__ = ["PROBES", "Embedding"]

_INSTRUCTION = "\n\n### Instruction:\nPlease provide a response. Input:Input.\n\n### Response:"

PROBES = tuple(
    opening + _INSTRUCTION
    for opening in (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
        "The task described below requires a response that completes the request accurately.",
        "Below is a description of a task. Provide a response that aligns with the requirements.",
        "The following instruction outlines a task. Generate a response that meets the specified request.",
        "You are given an instruction and input. Write a response that completes the task as requested.",
    )
)
"""The five generic probes of Delta Activations (arXiv 2509.04442): templates with nothing in them."""


class Embedding(Protocol):
    """What the registry's embeddings look like.

    >>> from merge_advisor import registry
    >>> embedding: Embedding = registry.build("embedding", "delta_meaning")
    >>> embedding.forwards
    40
    """

    name: ClassVar[str]
    source: ClassVar[str]
    layer: ClassVar[str]
    pooling: ClassVar[str]

    def probes(self) -> tuple[str, ...]:
        """Return the texts it runs."""
        ...

    @property
    def forwards(self) -> int:
        """Forward passes over one row that embedding one model takes; budgets count in them."""
        ...

    def dim(self, config: Mapping[str, Any]) -> int:
        """Return d, the length of a feature vector.

        Args:
            config: the base's config.json; nothing else is needed, so that no model is loaded to name a space.
        """
        ...

    def refusal(self, encoder_decoder: bool) -> str:
        """Return why it is not defined for such a base, or an empty string.

        Args:
            encoder_decoder: whether the base is one.
        """
        ...

    def features(self, backbone: Backbone) -> Float32Array:
        """Return the features of a model.

        Args:
            backbone: base, with or without a candidate placed.

        Returns:
            (d,) float32.
        """
        ...
