"""The base in memory, asked under the pool's prompt template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from merge_advisor.backbone.encoding import ROW_TOKENS, UNKNOWN_CONTEXT, context_of
from merge_advisor.machine_options import Machine
from merge_advisor.progress import Progress, quiet_progress
from merge_advisor.weights.by_transformers import naming_base, read_config, read_tokenizer

if TYPE_CHECKING:
    from merge_advisor.backbone.device_map import DeviceMap
    from merge_advisor.backbone.encoding import EncodedChoices, EncodedRow
    from merge_advisor.backbone.model import Backbone
    from merge_advisor.templates import Template
    from merge_advisor.types import Row
    from merge_advisor.weights.base import LocalBase


@dataclass(eq=False)
class PromptedModel:
    """A base and a prompt template; the weights are loaded (and torch imported) when something is first computed.

    >>> from merge_advisor.advisor.measuring.session import open_session
    >>> with open_session("base", "adapters") as session:
    ...     session.model.encoder_decoder, session.model.template.name
    (False, 'alpaca')
    """

    local: LocalBase
    template: Template
    machine: Machine
    progress: Progress = quiet_progress
    said: str = ""
    """What there is to say of how the machine is used."""
    device_map: DeviceMap | None = None
    """What lies on which device, where there are several to choose from."""

    @cached_property
    def backbone(self) -> Backbone:
        """The base in memory."""
        from merge_advisor.backbone.model import load_backbone

        spread = self.device_map if self.device_map and len(self.device_map.devices) > 1 else None
        said = [*([f"on {', '.join(spread.lines)}"] if spread else []), *([self.said] if self.said else [])]
        loading = f"loading the base ({'; '.join(said)})" if said else "loading the base"
        self.progress(loading, 0, 1)
        machine = self.machine
        backbone = load_backbone(
            self.local.path, device=machine.device, dtype=machine.dtype, threads=machine.threads,
            modules=spread.modules if spread else None, template=self.template,
        )  # fmt: skip
        self.progress(loading, 1, 1)
        return backbone

    @cached_property
    def tokenizer(self) -> Any:
        """The base's tokenizer, read without its weights.

        Raises:
            BaseModelError: it cannot be read.
        """
        with naming_base(self.local.path):
            return read_tokenizer(self.local.path)

    @cached_property
    def longest_row(self) -> int:
        """Tokens of a row at most, from the configuration alone: `ROW_TOKENS`, or the base's context if shorter.

        Raises:
            BaseModelError: transformers cannot read the configuration.
        """
        written = self.local.config.get("text_config") or self.local.config
        context = context_of(written.get)
        if context is None:  # transformers knows what a configuration leaves out
            with naming_base(self.local.path):
                read = read_config(self.local.path).get_text_config()
            context = context_of(lambda key: getattr(read, key, None))
        return min(ROW_TOKENS, context or UNKNOWN_CONTEXT)

    @property
    def encoder_decoder(self) -> bool:
        """Whether the base has an encoder, from its configuration alone."""
        return bool(self.local.config.get("is_encoder_decoder", False))

    @property
    def task_type(self) -> str:
        """PEFT's `task_type` of adapters of this base."""
        return "SEQ_2_SEQ_LM" if self.encoder_decoder else "CAUSAL_LM"

    def encode(
        self,
        rows: Sequence[Row],
        max_length: int = ROW_TOKENS,
        *,
        cut: bool = False,
        on_cut: Callable[[int, int], None] = lambda row, tokens: None,
    ) -> list[EncodedRow]:
        """Return rows as token ids under the template.

        Args:
            rows: n rows.
            max_length: tokens of a row at most; never more than the context.
            cut: cut long answers as well as long prompts.
            on_cut: as of `encoding.encode`.

        Raises:
            TaskError: an answer is longer than the context, and `cut` is off.
        """
        from merge_advisor.backbone.encoding import context_length, encode

        texts = [(self.template.prompt(row.asked), self.template.completion(row.output)) for row in rows]
        names = [row.called for row in rows]
        limit = min(max_length, context_length(self.backbone))
        return encode(self.backbone, texts, max_length=limit, names=names, cut=cut, on_cut=on_cut)

    def encode_choices(self, rows: Sequence[Row]) -> list[EncodedChoices]:
        """Return rows that have choices as token ids, each choice as an answer of its own.

        Args:
            rows: n rows, each with choices.

        Raises:
            TaskError: a choice is longer than the context.
        """
        from merge_advisor.backbone.encoding import EncodedChoices

        encoded = []
        for row in rows:
            choices = row.choices or ()
            answers = self.encode([replace(row, output=choice) for choice in choices])
            encoded.append(EncodedChoices(tuple(answers), choices.index(row.output) if row.labelled else 0))
        return encoded
