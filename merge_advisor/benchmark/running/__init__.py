"""Measuring a setup: rows, units, arms, controls and tuners; workers over one ledger; the dry run."""
