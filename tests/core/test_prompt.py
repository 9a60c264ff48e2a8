import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.core.errors import DataError
from crossdraft.core.prompt import EventStream, Prompt


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 100), max_size=40), st.integers(-5, 110), st.integers(-5, 110))
def test_between_takes_the_start_and_leaves_the_end(times: list[int], start: int, end: int) -> None:
    t = np.array(sorted(times), dtype=np.int64)
    count = len(t)
    stream = EventStream(
        np.arange(count, dtype=np.uint16), np.zeros(count, np.uint16), t, np.ones(count, np.uint8), (64, 48)
    )
    part = stream.between(start, end)
    assert part.t_us.tolist() == [v for v in t.tolist() if start <= v < end]
    assert len(part) == len(part.x) == len(part.y) == len(part.p)
    assert part.sensor_size == (64, 48)


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused(question: str) -> None:
    with pytest.raises(DataError, match="prompt is empty"):
        Prompt(question)
