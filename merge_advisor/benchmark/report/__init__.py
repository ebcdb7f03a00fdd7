"""A benchmark's report: sections, pictures, tables, and the summary a terminal shows."""
