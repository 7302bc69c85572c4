"""Benchmarks against peer libraries, measured in the same run: `python -m benchmarks`. No test depends on a time."""
