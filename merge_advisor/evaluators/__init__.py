"""Evaluators: what measures one model on the held-out rows of a task, and the guard that watches everything else.

An evaluator is a frozen dataclass (its fields are its parameters, see `registry`) with

    name: ClassVar[str]          the registered name
    version: str                 name and version of what measures, for score tables and stored scores
    settings: dict[str, int | str]  what changes a score besides model, rows and template, for stored scores
    def score(self, model, tokenizer, rows, template, *, label, metric) -> ModelScore

`rules` holds what is measured, whoever measures it. `lm_eval` gives final scores, `fast` gives the same numbers for the
price of the forward passes. Tasks of lm-eval's own making are no rows of ours: `lm_eval_tasks` asks models exactly as
lm-eval does.
"""
