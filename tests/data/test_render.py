import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.prompt import EventStream
from crossdraft.data.events import make_stream
from crossdraft.data.render import render_event_images

SENSOR = (9, 7)
COLOURS = {0: (0, 0, 255), 1: (255, 0, 0)}


@st.composite
def streams(draw) -> EventStream:
    events = draw(
        st.lists(st.tuples(st.integers(0, 8), st.integers(0, 6), st.integers(0, 1)), min_size=1, max_size=60)
    )
    x, y, p = (np.array(column) for column in zip(*events, strict=True))
    return make_stream(x, y, np.arange(len(events)), p, SENSOR)


def draw_one_by_one(events: EventStream, num_images: int, variant: str, on_sensor: bool) -> list[np.ndarray]:
    """The rule as the papers' code states it, one event after the other."""
    size, images = len(events) // num_images, []
    for i in range(num_images):
        stop = len(events) if i == num_images - 1 else (i + 1) * size
        part = [(int(events.x[k]), int(events.y[k]), int(events.p[k])) for k in range(i * size, stop)]
        width, height = SENSOR if on_sensor else (max(e[0] for e in part) + 1, max(e[1] for e in part) + 1)
        image = np.full((height, width, 3), 255, np.uint8)
        passes = [part] if variant == "official" else [[e for e in part if e[2]], [e for e in part if not e[2]]]
        for order in passes:
            for x, y, p in order:
                image[y, x] = COLOURS[p]
        images.append(image)
    return images


@settings(max_examples=150, deadline=None)
@given(streams(), st.integers(1, 6), st.sampled_from(["official", "study"]), st.booleans())
def test_equals_drawing_one_by_one(events, num_images, variant, on_sensor):
    if len(events) < num_images:
        with pytest.raises(DataError, match="cannot fill"):
            render_event_images(events, num_images, variant)
        return
    got = render_event_images(events, num_images, variant, "sensor" if on_sensor else None)
    want = draw_one_by_one(events, num_images, variant, on_sensor)
    assert len(got) == num_images
    for mine, theirs in zip(got, want, strict=True):
        assert mine.dtype == np.uint8
        np.testing.assert_array_equal(mine, theirs)


def test_the_variants_differ_where_both_polarities_fall():
    events = make_stream([1, 1], [1, 1], [0, 1], [0, 1], SENSOR)
    assert render_event_images(events, 1, "official")[0][1, 1].tolist() == [255, 0, 0]
    assert render_event_images(events, 1, "study")[0][1, 1].tolist() == [0, 0, 255]


def test_the_last_part_takes_the_remainder():
    events = make_stream(np.arange(9) % 9, np.zeros(9, int), np.arange(9), np.ones(9, int), SENSOR)
    dots = [int((image != 255).any(-1).sum()) for image in render_event_images(events, 4)]
    assert dots == [2, 2, 2, 3]


def test_settings_that_cannot_work():
    events = make_stream([8], [6], [0], [1], SENSOR)
    with pytest.raises(SettingError, match="unknown"):
        render_event_images(events, 1, "other")
    with pytest.raises(SettingError, match="1 or more"):
        render_event_images(events, 0)
    with pytest.raises(SettingError, match="does not hold"):
        render_event_images(events, 1, canvas=(8, 7))
    assert render_event_images(events, 1, canvas=(20, 10))[0].shape == (10, 20, 3)
