"""Process-wide set-up for the app. The library itself leaves a process as it finds it."""

from functools import cache

import pandas as pd
from threadpoolctl import threadpool_limits

from gptviz.ui import memory


@cache
def set_up() -> None:
    """Set up the process. Call this before the first page; later calls do nothing."""
    # NumPy's matrix products are small here. If every session used several threads for them, the threads would wait for
    # each other.
    threadpool_limits(1, user_api="blas")
    memory.tune()
    pd.set_option("display.max_colwidth", None)  # otherwise pandas truncates long strings with dots
