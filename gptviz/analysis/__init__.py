"""Arrays in, arrays or tables out: pure functions, tested by value."""
