"""A model in memory as lm-eval takes it: its HFLM, with tokens as everywhere else in this package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from merge_advisor.backbone.encoding import TOKENS_PER_BATCH, EncodedRow, batches, encode
from merge_advisor.backbone.generate import greedy
from merge_advisor.backbone.likelihood import HELD_TOKENS
from merge_advisor.backbone.long_prefix import LongPrefix, PlacedToken, read_prefix
from merge_advisor.backbone.packing import PACKED_TOKENS
from merge_advisor.backbone.prefix import continue_from, shared_prefix

if TYPE_CHECKING:
    from merge_advisor.backbone.model import Backbone


def in_memory_hflm(backbone: Backbone, batch_size: int, limit: int) -> Any:
    """Return lm-eval's HFLM over a model, with tokens as everywhere else in this package.

    HFLM tokenises prompt and answer as one text and moves blanks from the prompt's end to the answer; adapters were
    trained on the two apart. It also takes logits at every position of a batch: here only where there is an answer.

    Args:
        backbone: the model.
        batch_size: prompts generated from at once at most.
        limit: tokens of prompt and answer together at most.
    """
    import torch
    from lm_eval.models.huggingface import HFLM

    end = str(backbone.tokenizer.decode(backbone.end_id))

    class InMemoryHFLM(HFLM):  # type: ignore[misc]
        kept = 0  # positions, counted from the end of a batch, that hold answers
        prefix: LongPrefix | None = None  # what all prompts begin with, where it is long

        @property
        def max_length(self) -> int:
            return limit

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            # `encode` closes every answer with the one end token; as text it could be cut into several
            rows = encode(backbone, [(p, a.removesuffix(end)) for p, a in (r.args for r in requests)], max_length=limit)
            answers: list[Any] = [None] * len(rows)
            self.prefix = prefix = read_prefix(backbone, [row.prompt for row in rows])
            shared, most = (len(prefix.ids), PACKED_TOKENS) if prefix else (0, TOKENS_PER_BATCH)
            for batch in batches(rows, shared=shared, most=backbone.tokens(most)):
                width = max(map(len, (rows[i] for i in batch)))
                self.kept = max(width - len(rows[i].prompt) for i in batch)
                self.batch_size_per_gpu = len(batch)
                pairs = [(requests[i].args, list(rows[i].prompt), list(rows[i].completion)) for i in batch]
                for i, answer in zip(batch, self._loglikelihood_tokens(pairs, disable_tqdm=True), strict=True):
                    answers[i] = answer
            return answers

        def _model_call(self, inps: Any, attn_mask: Any = None, labels: Any = None) -> Any:
            if labels is not None:
                return super()._model_call(inps, attn_mask, labels)
            with torch.inference_mode():
                if self.prefix:
                    return _after_prefix(self.prefix, inps, self.kept).to(inps.device)
                shared = shared_prefix(backbone, [row[: inps.shape[1] - self.kept + 1] for row in inps.tolist()])
                tail = inps[:, shared:]
                kept = torch.arange(tail.shape[1] - self.kept, tail.shape[1])
                # right-padded and causal: what stands behind an answer cannot reach it, so nothing is masked
                logits, _ = continue_from(backbone, inps[0, :shared].tolist(), tail, torch.ones_like(tail), kept)
                return logits.to(inps.device)

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            rows = encode(backbone, [(request.args[0], "") for request in requests], max_length=limit, end=False)
            width = max(map(len, rows)) + max(int(request.args[1]["max_gen_toks"]) for request in requests)
            self.prefix = prefix = read_prefix(backbone, [row.prompt for row in rows])
            room = TOKENS_PER_BATCH // (width - len(prefix.ids)) if prefix else HELD_TOKENS // width
            self.batch_size_per_gpu = max(1, min(batch_size, backbone.tokens(room)))
            return super().generate_until(requests, disable_tqdm=True)

        def tok_batch_encode(self, strings: Any, *_: Any, left_truncate_len: int = limit, **__: Any) -> Any:
            rows = encode(backbone, [(s, "") for s in strings], max_length=left_truncate_len, end=False)
            return _padded(rows, self.tokenizer.pad_token_id, left=not backbone.encoder_decoder)

        def _model_generate(self, context: Any, max_length: int, stop: Any, **settings: Any) -> Any:
            if backbone.encoder_decoder:  # HFLM counts the encoder's tokens as generated ones
                return super()._model_generate(context, max_length + 1 - context.shape[1], stop, **settings)
            real = settings["attention_mask"].bool()
            prompts = [row[mask].tolist() for row, mask in zip(context, real, strict=True)]
            # the only stop is the end token (see `lm_eval_harness`); the same greedy choice, sharing the preamble
            shared = self.prefix.ids if self.prefix else ()
            # a prompt that was cut may begin elsewhere
            prefix = self.prefix if all(tuple(prompt[: len(shared)]) == shared for prompt in prompts) else None
            answers = greedy(backbone, prompts, max_new_tokens=max_length - context.shape[1], prefix=prefix)
            width = max(map(len, answers))
            ends = [[*answer, *[backbone.end_id] * (width - len(answer))] for answer in answers]
            return torch.cat([context, torch.tensor(ends, dtype=context.dtype, device=context.device)], dim=1)

    return InMemoryHFLM(
        pretrained=backbone.model,
        tokenizer=backbone.tokenizer,
        backend="seq2seq" if backbone.encoder_decoder else "causal",
        logits_cache=False,
        softmax_dtype="float32",
        batch_size=batch_size,
    )


def _after_prefix(prefix: LongPrefix, ids: Any, kept: int) -> Any:
    """Return the logits at the last `kept` positions of rows that begin with a prefix, (n, kept, vocabulary)."""
    begin = len(prefix.ids)
    tails = ids[:, begin:].tolist()  # padding on the right included: no token of the row sees it
    tokens = [PlacedToken(id_, at, n) for n, tail in enumerate(tails, 1) for at, id_ in enumerate(tail, begin)]
    width = len(tails[0])
    wanted = [n * width + at for n in range(len(tails)) for at in range(width - kept, width)]
    return prefix.append(prefix.sequence(), tokens, wanted).unflatten(0, (len(tails), kept))


def _padded(rows: Sequence[EncodedRow], pad: int, *, left: bool) -> tuple[Any, Any]:
    """Return prompts as a padded batch: ids and mask, both (n, longest)."""
    import torch

    ids = torch.full((len(rows), max(len(row.prompt) for row in rows)), pad)
    mask = torch.zeros_like(ids)
    for at, row in enumerate(rows):
        where = slice(ids.shape[1] - len(row.prompt), None) if left else slice(len(row.prompt))
        ids[at, where] = torch.tensor(row.prompt)
        mask[at, where] = 1
    return ids, mask
