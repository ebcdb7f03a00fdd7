"""Reports: one document model, written as Markdown, as one HTML page and as plain text.

`document` is the model; `markdown`, `html` and `terminal` write it. `run_document` builds the document of a run, with
`score_section`, `tuning_section`, `score_table` and `run_wording`; `values` holds what a report says beside what is in
`types`. `plots`, `tuning_plots` and `maps` draw SVG from plain values with the parts in `svg` and `labels`. Nothing
here knows how a run is kept. A benchmark builds its own document, in `benchmark.report`.
"""
