"""The report of an experiment: one page, one Markdown text, or one JSON object."""
