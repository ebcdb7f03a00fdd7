"""Reports: a run in words and tables, as Markdown for report.md and as plain text for a terminal.

`markdown` and `tables` take frozen values and return text; they read no file and know nothing of how a run is kept.
"""
