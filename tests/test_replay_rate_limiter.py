from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clock import ManualClock
from core.errors import ConfigError
from replay.rate_limiter import RateLimiterConfig, RateLimitTimeoutError, SamplesPerInsertLimiter


def make_limiter(spi: float = 4.0, min_size: int = 3, buffer: float = 8.0) -> SamplesPerInsertLimiter:
    config = RateLimiterConfig(samples_per_insert=spi, min_size_to_sample=min_size, error_buffer=buffer)
    return SamplesPerInsertLimiter(config, ManualClock())


def test_sampling_waits_for_the_first_inserts_which_never_wait():
    limiter = make_limiter()
    for _ in range(3):
        assert not limiter.can_sample()
        limiter.await_insert(timeout_s=0.0)
    assert limiter.can_sample()
    assert limiter.error == 0.0


def test_either_side_runs_ahead_by_the_buffer_and_no_further():
    limiter = make_limiter()
    limiter.await_insert(3 - 1, timeout_s=0.0)
    limiter.await_insert(1, timeout_s=0.0)
    limiter.await_sample(8, timeout_s=0.0)
    assert limiter.error == -8.0
    assert not limiter.can_sample()
    for _ in range(4):
        limiter.await_insert(timeout_s=0.0)
    assert limiter.error == 8.0
    assert not limiter.can_insert()
    assert limiter.can_sample(8)
    assert (limiter.num_inserts, limiter.num_samples) == (7, 8)


def test_a_wait_ends_with_a_message_that_says_who_did_not_come():
    limiter = make_limiter()
    with pytest.raises(RateLimitTimeoutError, match=r"waited 5\.0 s to sample 1: 0 inserts and 0 samples.*Not enough inserts"):
        limiter.await_sample(timeout_s=5.0)
    limiter.await_insert(2, timeout_s=0.0)
    limiter.await_insert(2, timeout_s=0.0)
    limiter.await_insert(1, timeout_s=0.0)
    with pytest.raises(TimeoutError, match=r"waited 5\.0 s to insert 1.*error \+8\.0 of ±8\.0.*Not enough samples"):
        limiter.await_insert(timeout_s=5.0)


def test_a_wait_ends_when_the_other_side_comes():
    config = RateLimiterConfig(samples_per_insert=1.0, min_size_to_sample=1, error_buffer=1.0)
    limiter = SamplesPerInsertLimiter(config, poll_s=0.001)
    total = 200

    def collect() -> None:
        for _ in range(total):
            limiter.await_insert(timeout_s=30.0)

    collector = threading.Thread(target=collect)
    collector.start()
    for _ in range(total):
        limiter.await_sample(timeout_s=30.0)
        assert abs(limiter.error) <= 2.0
    collector.join()
    assert (limiter.num_inserts, limiter.num_samples) == (total, total)


@pytest.mark.parametrize(("spi", "buffer"), [(4.0, 3.9), (0.1, 0.9), (1.0, float("nan"))])
def test_a_buffer_in_which_both_sides_could_wait_is_refused(spi, buffer):
    with pytest.raises(ConfigError, match=rf"deadlock: error_buffer is {buffer}.*expected at least {max(1.0, spi)}"):
        RateLimiterConfig(samples_per_insert=spi, min_size_to_sample=1, error_buffer=buffer)


def test_a_call_too_large_to_be_ever_let_through_is_refused_instead_of_waited_for():
    limiter = make_limiter()
    with pytest.raises(ConfigError, match=r"deadlock: 9 samples at once.*at least 9"):
        limiter.await_sample(9, timeout_s=1e9)
    with pytest.raises(ConfigError, match=r"deadlock: 3 inserts at once \(12\.0 samples\)"):
        limiter.await_insert(3, timeout_s=1e9)


@pytest.mark.parametrize("bad", [{"samples_per_insert": 0.0}, {"min_size_to_sample": 0}])
def test_numbers_that_mean_nothing_are_refused(bad):
    with pytest.raises(ConfigError, match="expected more than 0 and at least 1"):
        RateLimiterConfig(**bad)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_never_do_both_sides_wait(data):
    spi = data.draw(st.floats(0.1, 8.0))
    buffer = data.draw(st.floats(max(1.0, spi), 40.0))
    min_size = data.draw(st.integers(1, 5))
    limiter = make_limiter(spi, min_size, buffer)
    num_samples = data.draw(st.integers(1, int(buffer)))
    num_inserts = data.draw(st.integers(1, max(1, int(buffer / spi))))
    for wants_sample in data.draw(st.lists(st.booleans(), max_size=40)):
        may_sample, may_insert = limiter.can_sample(num_samples), limiter.can_insert(num_inserts)
        assert may_sample or may_insert
        if wants_sample and may_sample:
            limiter.await_sample(num_samples, timeout_s=0.0)
        elif may_insert:
            limiter.await_insert(num_inserts, timeout_s=0.0)
        if limiter.num_inserts >= min_size:
            assert abs(limiter.error) <= buffer


def test_counts_are_saved_restored_and_taken_over_from_a_store():
    limiter = make_limiter()
    limiter.count_inserts(5)
    limiter.await_sample(8, timeout_s=0.0)
    resumed = make_limiter()
    resumed.load_state_dict(limiter.state_dict())
    assert (resumed.num_inserts, resumed.num_samples, resumed.error) == (5, 8, 0.0)
