"""Experiments: functions that run the model again, changed or backwards, and return arrays or tables."""
