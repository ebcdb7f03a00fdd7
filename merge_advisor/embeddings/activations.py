"""Delta Activations: how a model's last hidden state moves on a few generic probes."""

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
class DeltaActivations:
    """Mean over five generic probes of the last layer's state at the last token; the default.

    Decoder-only bases: as published. Encoder-decoders: the decoder's last layer (after the final norm) at its start
    token, the encoder reading the probe; the published definition for T5 is not public, this one is ours.

    >>> embedding = DeltaActivations()
    >>> embedding.dim({"hidden_size": 576}), embedding.forwards
    (576, 5)
    """

    name: ClassVar[str] = "delta_activations"
    source: ClassVar[str] = "Delta Activations, arXiv 2509.04442, section 3"
    layer: ClassVar[str] = "last, after the final norm"
    pooling: ClassVar[str] = "last token (decoder start token of an encoder-decoder), mean over probes"

    def probes(self) -> tuple[str, ...]:
        """See `Embedding.probes`; the five generic ones."""
        return PROBES

    @property
    def forwards(self) -> int:
        """See `Embedding.forwards`; each probe runs once."""
        return len(self.probes())

    def dim(self, config: Mapping[str, Any]) -> int:
        """See `Embedding.dim`; the hidden size."""
        return hidden_size(config)

    def refusal(self, encoder_decoder: bool) -> str:
        """See `Embedding.refusal`; it is defined for every base."""
        return ""

    def features(self, backbone: Backbone) -> Float32Array:
        """See `Embedding.features`; d is the hidden size."""
        together: Float32Array = self.features_together(backbone, 1)
        return np.asarray(together[0])

    def features_together(self, backbone: Backbone, copies: int) -> Float32Array:
        """Return the features of several adapters placed together, from one forward.

        Args:
            backbone: base, with adapters placed by `placed_together`.
            copies: how many adapters.

        Returns:
            (copies, d) float32.
        """
        from merge_advisor.backbone.probes import probe_hidden

        return np.asarray(probe_hidden(backbone, PROBES, copies=copies).mean(axis=1), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class DeltaActivationsEncoder:
    """Mean over tokens and probes of the encoder's last layer; the variant for encoder-decoders such as T5.

    >>> DeltaActivationsEncoder().refusal(encoder_decoder=False)
    'the base has no encoder; use delta_activations'
    """

    name: ClassVar[str] = "delta_activations_encoder"
    source: ClassVar[str] = "variant of arXiv 2509.04442 for encoder-decoders"
    layer: ClassVar[str] = "last of the encoder, after its final norm"
    pooling: ClassVar[str] = "mean over tokens, mean over probes"

    def probes(self) -> tuple[str, ...]:
        """See `Embedding.probes`; the five generic ones."""
        return PROBES

    @property
    def forwards(self) -> int:
        """See `Embedding.forwards`; each probe runs once."""
        return len(self.probes())

    def dim(self, config: Mapping[str, Any]) -> int:
        """See `Embedding.dim`; the hidden size."""
        return hidden_size(config)

    def refusal(self, encoder_decoder: bool) -> str:
        """See `Embedding.refusal`; it needs an encoder."""
        return "" if encoder_decoder else "the base has no encoder; use delta_activations"

    def features(self, backbone: Backbone) -> Float32Array:
        """See `Embedding.features`; d is the hidden size."""
        from merge_advisor.backbone.probes import encoder_hidden

        return np.asarray(encoder_hidden(backbone, PROBES).mean(axis=0), dtype=np.float32)


def hidden_size(config: Mapping[str, Any]) -> int:
    """Return the hidden size under any of the names configurations use.

    Args:
        config: a model's config.json.

    >>> hidden_size({"d_model": 512}), hidden_size({"text_config": {"hidden_size": 640}})
    (512, 640)
    """
    for key in ("hidden_size", "d_model", "n_embd"):
        if isinstance(config.get(key), int):
            return int(config[key])
    return int(config["text_config"]["hidden_size"])  # a model of text and images keeps its text part's settings apart
