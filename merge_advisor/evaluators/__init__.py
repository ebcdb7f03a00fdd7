"""Evaluators: what measures one model on the held-out rows of a task, and the guard that watches everything else."""
