"""How long tests wait: long enough for the slowest machine, but not forever if something hangs."""

import time

import pytest

SECONDS = 600  # No verdict may depend on this: it only ends tests that hang.


def until(holds, what="it"):
    """Wait until `holds()` is true; return its value."""
    end = time.monotonic() + SECONDS
    while not (found := holds()):
        if time.monotonic() > end:
            pytest.fail(f"{what} did not come to that in {SECONDS} seconds")
        time.sleep(0.05)
    return found
