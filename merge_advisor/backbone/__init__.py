"""Models in memory: the only room that knows the insides of transformers and peft.

`weights`, `tensorfile`, `adapter`, `checkpoint` and `base` need numpy alone, so that a plan whose measurements are all
stored never imports torch; `model`, `place`, `forward` and `finetune` are the torch side.
"""
