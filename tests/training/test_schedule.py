"""The learning rate against its formulas."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtcli.training.schedule import Schedule

peaks = st.floats(1e-6, 1.0)
updates = st.integers(1, 100_000)


@pytest.mark.parametrize("decay", ["none", "inverse-sqrt", "linear", "plateau"])
@given(peak=peaks, warmup=st.integers(2, 10_000), data=st.data())
def test_the_rate_rises_linearly_to_the_peak(decay: str, peak: float, warmup: int, data: st.DataObject) -> None:
    update = data.draw(st.integers(1, warmup))
    rate = Schedule(peak=peak, warmup=warmup, decay=decay, max_updates=20_000, factor=0.5).rate(update)
    assert rate == pytest.approx(peak * update / warmup)


@given(peaks, updates, st.integers(0, 1000))
def test_none_stays_at_the_peak(peak: float, update: int, warmup: int) -> None:
    assert Schedule(peak=peak, warmup=warmup, decay="none").rate(warmup + update) == peak


@given(peaks, updates, st.integers(0, 1000))
def test_inverse_sqrt_falls_with_the_root_of_the_update(peak: float, update: int, warmup: int) -> None:
    number = warmup + update
    rate = Schedule(peak=peak, warmup=warmup, decay="inverse-sqrt").rate(number)
    assert rate == pytest.approx(peak / math.sqrt(number / max(warmup, 1)))


@given(peaks, st.integers(1, 5000), st.integers(0, 1000))
def test_linear_falls_in_equal_steps_to_zero_just_after_the_last_update(peak: float, more: int, warmup: int) -> None:
    last = warmup + more
    schedule = Schedule(peak=peak, warmup=warmup, decay="linear", max_updates=last)
    start = max(warmup, 1)
    rates = [schedule.rate(update) for update in range(start, last + 3)]
    assert rates[0] == pytest.approx(peak)
    for step, rate in enumerate(rates):
        assert rate == pytest.approx(max(0.0, peak * (1 - step / (last + 1 - start))), abs=1e-12)
    assert rates[-3] > 0 == rates[-2] == rates[-1]


@pytest.mark.parametrize(
    ("start", "every", "cuts"),
    [(5.0, 1.0, {4.99: 0, 5.0: 1, 5.99: 1, 6.0: 2, 8.5: 4}), (5.0, 0.5, {5.4: 1, 5.5: 2, 7.4: 5})],
)
def test_step_cuts_at_the_start_and_then_every_so_long(start: float, every: float, cuts: dict[float, int]) -> None:
    schedule = Schedule(peak=0.7, decay="step", factor=0.5, start=start, every=every)
    for epochs, count in cuts.items():
        assert schedule.rate(9, epochs=epochs) == pytest.approx(0.7 * 0.5**count)


@given(peaks, updates, st.integers(0, 20), st.floats(0.0, 0.99))
def test_plateau_multiplies_once_a_cut(peak: float, update: int, cuts: int, factor: float) -> None:
    expected = math.prod([peak, *[factor] * cuts])
    rate = Schedule(peak=peak, decay="plateau", factor=factor).rate(update, cuts=cuts)
    assert rate == pytest.approx(expected)
