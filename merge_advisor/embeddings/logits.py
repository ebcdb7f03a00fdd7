"""Delta logits: how the next-token logits move on the generic probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from merge_advisor.embeddings import PROBES

if TYPE_CHECKING:
    from merge_advisor.arrays import Float32Array
    from merge_advisor.backbone.model import Backbone


@dataclass(frozen=True, slots=True)
class DeltaLogits:
    """Mean over five generic probes of the logits of the next token; comparable across bases of one vocabulary.

    >>> embedding = DeltaLogits()
    >>> embedding.dim({"vocab_size": 49152}), embedding.forwards
    (49152, 5)
    """

    name: ClassVar[str] = "delta_logits"
    source: ClassVar[str] = "Delta-X of arXiv 2509.04442, section 3, with X = logits"
    layer: ClassVar[str] = "output head"
    pooling: ClassVar[str] = "next token, mean over probes"

    def probes(self) -> tuple[str, ...]:
        """See `Embedding.probes`; the five generic ones."""
        return PROBES

    @property
    def forwards(self) -> int:
        """See `Embedding.forwards`; each probe runs once."""
        return len(self.probes())

    def dim(self, config: Mapping[str, Any]) -> int:
        """See `Embedding.dim`; the size of the vocabulary."""
        return int(config["vocab_size"])

    def refusal(self, encoder_decoder: bool) -> str:
        """See `Embedding.refusal`; it is defined for every base."""
        return ""

    def features(self, backbone: Backbone) -> Float32Array:
        """See `Embedding.features`; d is the size of the vocabulary."""
        from merge_advisor.backbone.probes import last_logits

        return np.asarray(last_logits(backbone, PROBES).mean(axis=0), dtype=np.float32)
