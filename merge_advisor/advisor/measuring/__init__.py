"""What is measured of candidates and merges, and the session that opens and closes what measuring needs."""
