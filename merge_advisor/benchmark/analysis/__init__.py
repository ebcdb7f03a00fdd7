"""What the results say: means over families, contrasts, ranks, predicted against measured gains, choices by task."""
