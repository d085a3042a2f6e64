"""Measurements with a stated question; each writes dated Markdown to ``benchmarks/results/``. Not tests: nothing asserts a time."""
