"""Delta meaning: how the likelihood of a shared set of continuations moves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from merge_advisor.embeddings import PROBES

if TYPE_CHECKING:
    from merge_advisor.arrays import Float32Array
    from merge_advisor.backbone.model import Backbone


def continuations() -> tuple[tuple[str, ...], ...]:
    """Return the shared continuations, a tuple per probe, kept as text so that every base scores the same ones.

    Sampled once from SmolLM2-135M-Instruct by scripts/sample_continuations.py.
    """
    text = files("merge_advisor.embeddings").joinpath("continuations.json").read_text(encoding="utf-8")
    return tuple(tuple(group) for group in json.loads(text))


@dataclass(frozen=True, slots=True)
class DeltaMeaning:
    """Log-likelihood per token of shared continuations of the probes; comparable across bases of any size.

    >>> embedding = DeltaMeaning()
    >>> embedding.dim({}), embedding.forwards
    (40, 40)
    """

    name: ClassVar[str] = "delta_meaning"
    source: ClassVar[str] = "Meaning representations, arXiv 2310.18348, as Delta-X of arXiv 2509.04442"
    layer: ClassVar[str] = "output head"
    pooling: ClassVar[str] = "mean over the tokens of a continuation"

    def probes(self) -> tuple[str, ...]:
        """See `Embedding.probes`; the generic ones with each of their continuations."""
        return tuple(probe + text for probe, group in zip(PROBES, continuations(), strict=True) for text in group)

    @property
    def forwards(self) -> int:
        """See `Embedding.forwards`; a row for each continuation."""
        return len(self.probes())

    def dim(self, config: Mapping[str, Any]) -> int:
        """See `Embedding.dim`; the number of continuations over all probes."""
        return len(self.probes())

    def refusal(self, encoder_decoder: bool) -> str:
        """See `Embedding.refusal`; it is defined for every base."""
        return ""

    def features(self, backbone: Backbone) -> Float32Array:
        """See `Embedding.features`; the mean log-likelihood per token of each continuation, nats."""
        from merge_advisor.backbone.encoding import encode
        from merge_advisor.backbone.losses import row_losses

        # no end token: a continuation was cut after some tokens, it does not end there
        pairs = [(probe, text) for probe, group in zip(PROBES, continuations(), strict=True) for text in group]
        return -np.asarray(row_losses(backbone, encode(backbone, pairs, max_length=512, end=False)), dtype=np.float32)
