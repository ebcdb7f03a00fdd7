"""Samplers: what to try next. One file each; `merge_advisor.tuning` describes what a sampler is.

All of them rebuild what they know from the finished trials at every ask. Trials outside the space count as the nearest
ones inside it, values that are not finite as worse than all others.
"""
