import threading
from concurrent.futures import ThreadPoolExecutor

import patience
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptviz.cache import ByteCache


def bytes_cache(max_bytes):
    return ByteCache(max_bytes, lambda _, value: len(value))


@settings(deadline=None)
@given(st.integers(0, 50), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), max_size=60))
def test_it_holds_the_least_recently_used_within_its_bytes(max_bytes, uses):
    cache = bytes_cache(max_bytes)
    expected = {}  # in order of use
    for name, size in uses:
        key, value = (name, size), bytes(size)
        made = cache.get(key, lambda value=value: value)
        assert made == value
        known = expected.pop(key, None)
        if known is not None or size <= max_bytes:
            expected[key] = size
        while sum(expected.values()) > max_bytes:
            del expected[next(iter(expected))]
        assert cache.size == sum(expected.values()) <= max_bytes
        assert set(cache._held) == set(expected)


def test_a_value_is_made_once_for_16_threads():
    cache, made, together = bytes_cache(100), [], threading.Barrier(16)
    release = threading.Event()

    def make():
        release.wait(patience.SECONDS)
        made.append(1)
        return b"value"

    def ask(_):
        together.wait(patience.SECONDS)
        if together.n_waiting == 0:
            release.set()
        return cache.get("key", make)

    with ThreadPoolExecutor(16) as pool:
        values = list(pool.map(ask, range(16)))
    assert made == [1]
    assert all(value is values[0] for value in values)


def test_other_keys_need_not_wait():
    cache, waiting = bytes_cache(100), threading.Event()

    def slow():
        assert waiting.wait(patience.SECONDS)
        return b"slow"

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(cache.get, "slow", slow)
        assert cache.get("fast", lambda: b"fast") == b"fast"
        waiting.set()
        assert future.result() == b"slow"
    assert cache.size == 8


def test_a_failure_reaches_all_who_wait_and_leaves_nothing():
    cache, failing = bytes_cache(100), threading.Event()
    n_asked = threading.Semaphore(0)

    def fail():
        assert failing.wait(patience.SECONDS)
        raise ValueError("cannot be made")

    def ask(_):
        n_asked.release()
        with pytest.raises(ValueError, match="cannot be made"):
            cache.get("key", fail)
        return True

    with ThreadPoolExecutor(8) as pool:
        results = pool.map(ask, range(8))
        for _ in range(8):
            assert n_asked.acquire(timeout=patience.SECONDS)
        failing.set()
        assert list(results) == [True] * 8
    assert cache.peek("key") is None
    assert cache.size == 0
    assert cache.get("key", lambda: b"now") == b"now"


class GivesUp(BaseException):
    """An exception like the one with which Streamlit ends a script: it concerns that session only."""


def test_who_gives_up_takes_nobody_along():
    cache, begun, give_up = bytes_cache(100), threading.Event(), threading.Event()

    def begin():
        begun.set()
        assert give_up.wait(patience.SECONDS)
        raise GivesUp

    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(cache.get, "key", begin)
        assert begun.wait(patience.SECONDS)
        others = [pool.submit(cache.get, "key", lambda: b"made by another") for _ in range(8)]
        give_up.set()
        assert isinstance(first.exception(patience.SECONDS), GivesUp)
        assert {other.result(patience.SECONDS) for other in others} == {b"made by another"}
    assert cache.size == 15


def test_a_value_whose_size_cannot_be_told_leaves_nothing():
    cache = bytes_cache(100)
    with pytest.raises(TypeError):
        cache.get("key", lambda: None)
    assert cache.peek("key") is None
    assert cache.get("key", lambda: b"now") == b"now"


def test_a_value_larger_than_the_budget_is_given_but_not_kept_and_evicts_nothing():
    cache = bytes_cache(10)
    cache.get("small", lambda: bytes(10))
    assert cache.get("large", lambda: bytes(11)) == bytes(11)
    assert cache.peek("large") is None
    assert cache.peek("small") is not None
    assert cache.size == 10


def test_use_keeps_a_value_alive():
    cache = bytes_cache(2)
    cache.get("a", lambda: b"a")
    cache.get("b", lambda: b"b")
    cache.get("a", lambda: pytest.fail("made again"))
    cache.get("c", lambda: b"c")
    assert cache.peek("a") == b"a"
    assert cache.peek("b") is None
