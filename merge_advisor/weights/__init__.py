"""Weights and files: adapters, checkpoints and bases as they lie on disk, and updates as arrays. No torch at import."""
