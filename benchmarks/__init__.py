"""Reproducible measurements of Parley: `python -m benchmarks`. README.md has the results."""
