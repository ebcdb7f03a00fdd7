"""`plan`: from a task file and a pool to a run folder."""
