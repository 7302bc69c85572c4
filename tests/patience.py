"""How long tests wait: for what they wait for, however slow the machine, and at some time no longer for what hangs."""

import time

import pytest

SECONDS = 600  # no test's verdict may depend on it: it is there to end those that hang


def until(holds, what="it"):
    """Wait until `holds()` is true; gives what it gave then."""
    end = time.monotonic() + SECONDS
    while not (found := holds()):
        if time.monotonic() > end:
            pytest.fail(f"{what} did not come to that in {SECONDS} seconds")
        time.sleep(0.05)
    return found
