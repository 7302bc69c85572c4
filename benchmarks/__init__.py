"""Measurements beside peers, in one run. `python -m benchmarks`; no test depends on a time."""
