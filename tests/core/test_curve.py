import pytest

from crossdraft.core.curve import interpolate


@pytest.mark.parametrize(
    ("at", "height"), [(0, 5.0), (1, 5.0), (4.5, 5.5), (8, 6.0), (20, 9.0), (32, 12.0), (36, 13.0)]
)
def test_between_before_and_beyond_the_points(at: float, height: float) -> None:
    assert interpolate({8: 6.0, 1: 5.0, 32: 12.0}, at) == pytest.approx(height)


def test_one_point_is_a_constant() -> None:
    assert interpolate({4: 2.5}, 1) == interpolate({4: 2.5}, 99) == 2.5
