"""Measuring a benchmark: units, arms, controls, workers and the ledger of results."""
