"""Evaluators: what measures one model on the held-out rows of a task, and the guard that watches everything else.

An evaluator is a frozen dataclass (its fields are its parameters, see `registry`) with

    name: ClassVar[str]          the registered name
    version: str                 name and version of what measures, for score tables and stored scores
    settings: dict[str, int | str]  what changes a score besides model, rows and template, for stored scores
    def score(self, model, tokenizer, rows, template, *, label, metric) -> ModelScore

`metrics` holds what is measured, whoever measures it, and `responses` what a model says to our rows. Two evaluators
decide what that is worth: `lm_eval_harness` has lm-eval do so, for final scores, `fast` does it by itself. Tasks of
lm-eval's own making are no rows of ours: `lm_eval_tasks` loads them, `lm_eval_requests` asks models exactly as lm-eval
does, `lm_eval_rows` turns their documents into rows for a plan. What these share: `lm_eval_process` (lm-eval kept quiet
and in a sandbox), `lm_eval_model` (tells lm-eval what a model said), `lm_eval_samples` (values per row from its logs),
and `lm_eval_task_code` (whether a task runs code of its own). `guard` reads and compares losses on unrelated text.
"""
