"""Reproducible measurements of Parley: `python -m benchmarks`. What they showed stands in the README beside them."""
