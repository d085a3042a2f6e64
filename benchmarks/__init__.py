"""Measurements with a stated question; each writes dated Markdown to ``benchmarks/results/``. Nothing here asserts a time."""
