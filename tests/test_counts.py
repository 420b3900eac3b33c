"""How late decisions were: counted, never remembered one by one."""

import numpy as np
import pytest

from backend.counts import FINENESS, NUM_SLICES, SLICE_SECONDS, Lateness


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_quantiles_are_those_of_what_was_noted() -> None:
    lateness = Lateness(Clock())
    assert lateness.quantiles(0.5) is None
    noted = np.random.default_rng(1).lognormal(-3, 1, 5000)
    for seconds in noted:
        lateness.note(seconds)
    found = lateness.quantiles(0.5, 0.95)
    assert found is not None
    for share, seconds in zip((0.5, 0.95), found, strict=True):
        true = np.quantile(noted, share)
        assert true * 0.999 <= seconds <= true * FINENESS * 1.001


def test_only_the_last_minute_counts() -> None:
    clock = Clock()
    lateness = Lateness(clock)
    for minute in range(3):
        for _ in range(65):
            clock.now += 1.0
            lateness.note(0.01 * 10**minute)
    assert lateness.quantiles(0.01, 1.0) == pytest.approx([1.0, 1.0], rel=0.15)
    clock.now += NUM_SLICES * SLICE_SECONDS
    assert lateness.quantiles(0.5) is None


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1e9])
def test_any_lateness_is_counted(seconds: float) -> None:
    lateness = Lateness(Clock())
    lateness.note(seconds)
    assert lateness.quantiles(0.0, 0.5, 1.0) is not None
