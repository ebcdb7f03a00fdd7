"""What the results say: means over families, contrasts, ranks, promises and what came of them."""
