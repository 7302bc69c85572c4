"""What the app sets for its whole process. The library leaves a process as it finds it."""

from functools import cache

import pandas as pd
from threadpoolctl import threadpool_limits

from gptviz.ui import memory


@cache
def set_up() -> None:
    """Call before the first page; later calls do nothing."""
    # NumPy's products are small here. If every session had threads for them, these would wait for each other.
    threadpool_limits(1, user_api="blas")
    memory.tune()
    pd.set_option("display.max_colwidth", None)  # pandas would cut longer strings off with dots
