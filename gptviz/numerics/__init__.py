"""Arrays in, arrays or tables out, with NumPy and pandas alone."""
