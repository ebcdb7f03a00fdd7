"""A model as lm-eval takes it, for our own rows: it has been asked already, all at once, and answers from memory.

lm-eval asks once for each kind of request (texts to generate, likelihoods of outputs, of every choice), and its own
model would run each prompt again for each. So the model runs first, as `responses` does it; lm-eval asks about texts,
gets what the model says to them, and decides by its own tasks, filters and metrics. A request that is none of ours is
an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def answering_model(totals: Mapping[tuple[str, str], float], texts: Mapping[str, str]) -> Any:
    """Return a model of lm-eval's kind that says what is known.

    Args:
        totals: (prompt, answer) -> log-likelihood of the answer in nats.
        texts: prompt -> the text generated after it.

    Raises:
        NotImplementedError: (by what is returned) rolling likelihoods are asked for, which no task of ours does.
    """
    from lm_eval.api.model import LM

    class AnsweringModel(LM):  # type: ignore[misc]
        def loglikelihood(self, requests: Any) -> Any:
            # whether an answer is also the greedy one: none of our metrics asks (see `lm_eval_harness._config`)
            return [(totals[request.args], False) for request in requests]

        def generate_until(self, requests: Any) -> Any:
            return [texts[request.args[0]] for request in requests]

        def loglikelihood_rolling(self, requests: Any) -> Any:
            raise NotImplementedError("our rows ask for no rolling likelihoods")

    return AnsweringModel()
