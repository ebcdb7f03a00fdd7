"""Models in memory: the only room that knows the insides of transformers and peft.

From the bottom: `model` (load a base), `place` (a candidate on it and off again), `encoding` (rows as token ids),
`prefix` and `packing` (what rows share runs once), `forward` (logits of one batch), `losses`, `likelihood`,
`choice_loss`, `gradients`, `probes`, `generate` (what a model says), `finetune` (a LoRA of a few rows).
"""
