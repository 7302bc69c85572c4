"""Numerical functions from arrays to arrays or tables, using only NumPy and pandas."""
