"""`tune`: the search over merges of a run's members."""
