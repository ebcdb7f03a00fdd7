"""Reports: a run in words, tables and plots, as Markdown, as one HTML page, and as plain text for a terminal.

`markdown`, `html` and `tables` take frozen values and return text; they know nothing of how a run is kept. `plots` and
`maps` draw SVG from plain values with the parts in `svg`; `values` holds what a report tells beside what is in `types`.
"""
