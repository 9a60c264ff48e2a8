import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import DataError, MeasureError, SettingError
from crossdraft.evaluate.intervals import LEVEL, Estimate, Recordings, ratio


def mean_of(recordings: Recordings, values: np.ndarray) -> Estimate:
    samples = np.arange(len(values))
    return recordings.estimate(ratio, recordings.tally(samples, values), recordings.tally(samples))


@st.composite
def labelled(draw: st.DrawFn) -> tuple[list[str], list[float], list[int]]:
    labels = draw(st.lists(st.sampled_from("abcd"), min_size=2, max_size=10).filter(lambda x: len(set(x)) > 1))
    size = len(labels)
    values = draw(st.lists(st.floats(-5, 5, width=32), min_size=size, max_size=size))
    counts = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    return labels, values, counts


@settings(max_examples=25, deadline=None)
@given(labelled())
def test_a_draw_is_the_figure_of_the_recordings_written_out_as_often_as_drawn(
    case: tuple[list[str], list[float], list[int]],
) -> None:
    labels, values, counts = case
    recordings = Recordings.of(labels, draws=100, seed=1)
    samples = np.arange(len(labels))
    own = recordings.estimate(
        ratio, recordings.tally(samples, np.array(values)), recordings.tally(samples, np.array(counts))
    )
    drawn = []
    for weights in recordings.weights.tolist():
        picked = [n for name, w in zip(sorted(set(labels)), weights, strict=True) for n in [name] * int(w)]
        rows = [i for name in picked for i, label in enumerate(labels) if label == name]
        whole = sum(counts[i] for i in rows)
        drawn += [sum(values[i] for i in rows) / whole] if whole else []
    if not sum(counts):
        assert math.isnan(own.value) and math.isnan(own.low) and math.isnan(own.high)
        return
    assert own.value == pytest.approx(sum(values) / sum(counts), abs=1e-9)
    expected = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    np.testing.assert_allclose((own.low, own.high), expected, atol=1e-9)


def test_recordings_are_drawn_with_replacement() -> None:
    two = Recordings.of(["a", "b"], draws=10_000, seed=3).weights
    assert (two.sum(1) == 2).all()
    # both once: half of the draws; five standard deviations, so a right build fails once in 1.7 million seeds
    assert abs((two[:, 0] == 1).mean() - 0.5) < 5 * 0.5 / math.sqrt(10_000)
    many = Recordings.of([str(i) for i in range(40)], draws=10_000, seed=3).weights
    # a recording is in no draw with probability (1 - 1/40)^40 = 0.363; same five deviations
    assert abs((many[:, 7] == 0).mean() - 0.363) < 5 * math.sqrt(0.363 * 0.637 / 10_000)


def coverage(labels: list[str], clips: int, trials: int, seed: int) -> float:
    """Share of data sets, 12 recordings of normal level 0 and sd 1, whose interval of the mean holds 0."""
    recordings, noise = Recordings.of(labels, draws=200), np.random.default_rng(seed)
    held = 0
    for _ in range(trials):
        own = mean_of(recordings, np.repeat(noise.normal(size=12), clips) + 0.3 * noise.normal(size=12 * clips))
        held += own.low <= 0 <= own.high
    return held / trials


def test_coverage_is_as_stated_and_that_of_single_clips_is_not() -> None:
    """12 recordings: 0.91 by long simulation (0.90 with as few draws as here).

    400 trials have a standard deviation of 0.015; the limits stand 4.5 of them away, so another seed would fail a
    right build once in 100,000 times. Clips drawn as if independent cover 0.43: the test has teeth.
    """
    clustered = coverage([str(i // 10) for i in range(120)], clips=10, trials=400, seed=0)
    assert 0.90 - 4.5 * 0.015 < clustered < 0.90 + 4.5 * 0.015
    assert coverage([str(i) for i in range(120)], clips=10, trials=200, seed=0) < 0.65


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=8), st.floats(-10, 10))
def test_an_interval_of_symmetric_data_contains_its_estimate(offsets: list[float], middle: float) -> None:
    values = np.array([middle + s * x for x in offsets for s in (1, -1)])
    own = mean_of(Recordings.of([str(i) for i in range(len(values))], draws=500), values)
    assert own.low - 1e-9 <= own.value <= own.high + 1e-9
    assert own.value == pytest.approx(middle, abs=1e-9)


def test_one_recording_gives_figures_but_no_intervals() -> None:
    with pytest.raises(MeasureError, match="intervals need two or more recordings, this data has 1"):
        Recordings.of(["drive"] * 5)
    own = mean_of(Recordings.of(["drive"] * 5, draws=0), np.arange(5.0))
    assert own.value == 2.0 and math.isnan(own.low) and math.isnan(own.high)
    assert math.isnan(mean_of(Recordings.of(["a", "b"], draws=0), np.arange(2.0)).low)


def test_two_recordings_give_the_range_of_their_means() -> None:
    own = mean_of(Recordings.of(["a", "a", "b"]), np.array([1.0, 3.0, 8.0]))
    assert own == Estimate(4.0, 2.0, 8.0)  # pooled over samples; either recording may be drawn twice


def test_a_recording_of_one_clip_beside_a_huge_one() -> None:
    values = np.array([0.0] * 999 + [1.0])
    own = mean_of(Recordings.of(["big"] * 999 + ["small"]), values)
    assert (own.value, own.low, own.high) == (0.001, 0.0, 1.0)


def test_draws_in_which_a_figure_is_undefined_are_left_out() -> None:
    recordings = Recordings.of(["a", "b"])
    samples = np.array([0])  # only recording a has a denominator
    own = recordings.estimate(ratio, recordings.tally(samples, 0.5), recordings.tally(samples))
    assert own == Estimate(0.5, 0.5, 0.5)
    nowhere = recordings.tally(np.empty(0, int))
    never = recordings.curve(ratio, nowhere, nowhere)
    assert np.isnan([never.values, never.low, never.high]).all()


def test_equal_values_have_no_width() -> None:
    assert mean_of(Recordings.of(list("aabbc")), np.full(5, 0.25)) == Estimate(0.25, 0.25, 0.25)


def test_draws_depend_on_the_seed_and_not_on_the_order_of_samples() -> None:
    labels, values = np.array(list("aabbbcddee")), np.random.default_rng(0).normal(size=10)
    shuffle = np.random.default_rng(1).permutation(10)
    one, same, moved, other = (
        mean_of(Recordings.of(list(names), seed=seed), v)
        for names, seed, v in (
            (labels, 0, values), (labels, 0, values), (labels[shuffle], 0, values[shuffle]), (labels, 5, values),
        )
    )  # fmt: skip
    assert one == same and one != other
    np.testing.assert_allclose((one.value, one.low, one.high), (moved.value, moved.low, moved.high), atol=1e-12)


def test_a_paired_gap_cancels_what_both_sides_share() -> None:
    noise = np.random.default_rng(0)
    labels = [str(i // 5) for i in range(100)]
    recordings, samples = Recordings.of(labels), np.arange(100)
    shared = np.repeat(noise.normal(scale=10, size=20), 5)
    sides = [
        (recordings.tally(samples, v), recordings.tally(samples))
        for v in (shared + 1 + noise.normal(scale=0.1, size=100), shared + noise.normal(scale=0.1, size=100))
    ]
    paired = recordings.paired(ratio, *sides)
    assert paired.gap.value == pytest.approx(paired.right.value - paired.shuffled.value)
    assert paired.gap.low > 0.9 and paired.gap.high < 1.1  # the events help, and it shows
    assert paired.right.high - paired.right.low > 2  # though each side alone varies far more
    nothing = recordings.paired(ratio, sides[0], sides[0])
    assert nothing.gap == Estimate(0.0, 0.0, 0.0)


@pytest.mark.parametrize("draws", [-1, 1, 99])
def test_too_few_draws_are_refused(draws: int) -> None:
    with pytest.raises(SettingError, match="draws is"):
        Recordings.of(["a", "b"], draws=draws)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(DataError, match="no samples"):
        Recordings.of([])
