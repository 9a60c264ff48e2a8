import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import SettingError
from crossdraft.drafters.length import AssumedCurve, LengthChooser, Track, judged


class Steps:
    """Free up to 8 rows, then three times as dear: a GPU-like tile boundary."""

    def pass_ms(self, rows: int) -> float:
        return 1.0 if rows <= 8 else 3.0


@settings(max_examples=150, deadline=None)
@given(
    chances=st.lists(st.floats(0, 1), max_size=31),
    slope=st.sampled_from([0.0, 0.02, 0.2, 1.0]),
    draft_ms=st.sampled_from([0.0, 0.1, 1.0]),
    free=st.integers(0, 5),
)
def test_the_best_length_is_found(chances: list[float], slope: float, draft_ms: float, free: int) -> None:
    chooser = LengthChooser(AssumedCurve(slope))

    def rate(n: int) -> float:
        reach = list(itertools.accumulate(chances[:n], lambda a, b: a * b, initial=1.0))
        drafted = max(0, n - free)
        return sum(reach) / (1 + slope * n + drafted * draft_ms)

    best = max(rate(n) for n in range(len(chances) + 1))
    assert rate(chooser.choose(chances, draft_ms, free)) == pytest.approx(best)


def test_a_pass_is_never_widened_for_nothing() -> None:
    chooser = LengthChooser(Steps())
    assert chooser.choose([0.9] * 31) == 7  # 24 more rows would cost three times as much
    assert chooser.choose([0.999] * 31) == 31  # unless nearly all of them will be right
    assert LengthChooser(AssumedCurve(0.5)).choose([0.1] * 31) == 0
    assert LengthChooser(AssumedCurve(0.02)).choose([1.0] * 4) == 4
    assert LengthChooser(AssumedCurve(0.02)).choose([]) == 0


def test_a_badly_measured_curve_is_not_believed() -> None:
    class Noisy:
        def pass_ms(self, rows: int) -> float:
            return {5: 0.1}.get(rows, 1.0)

    assert LengthChooser(Noisy()).choose([0.0] * 31, draft_ms=0.01) == 0

    class Zero:
        def pass_ms(self, rows: int) -> float:
            return 0.0

    with pytest.raises(SettingError, match="take no time"):
        LengthChooser(Zero())


def test_a_track_learns_what_was_judged_and_forgets_slowly() -> None:
    track = Track([0.5, 0.5])
    track.learn([0, 0, 1, 1], accepted=2, judged=3)
    assert track.rate(0) > 0.5 > track.rate(1)
    for _ in range(2000):
        track.learn([0], 0, 1)
    assert track.rate(0) < 0.01
    for _ in range(400):
        track.learn([0], 1, 1)
    assert track.rate(0) > 0.8
    track.reset()
    assert track.rate(0) == 0.5


def test_what_a_step_tells_about_a_draft() -> None:
    assert judged(2, 3, 5) == 3  # two right, the third refused
    assert judged(5, 6, 5) == 5  # all right
    assert judged(2, 2, 5) == 2  # cut at an end token: nothing was refused
    assert judged(0, 1, 0) == 0
