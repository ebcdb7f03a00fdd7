"""A benchmark's report: its document, its figures, its numbers as CSV, and the summary that a terminal shows.

`write` writes all files. `document` builds the document (see `merge_advisor.report.document`) from sections:
`question_section`, `arm_sections`, `choice_sections`, `size_and_cost_sections`, which share `common_blocks`; `limits`
says what the benchmark cannot show, `wording` turns numbers into text, `setup_yaml` the setup into a file. `drawing`
and `heat_map` draw SVG. `csv_tables` collects the numbers, `csv_files` writes them. `bench.css` styles these figures.
"""
