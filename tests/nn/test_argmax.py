"""The largest of each row, the first of equal ones, in every dtype."""

import pytest
import torch

from crossdraft.nn.argmax import argmax


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_the_first_of_the_largest(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    # few values, so that most rows have several that are largest
    rows = torch.randint(-3, 4, (200, 61), generator=draw).to(dtype)
    found = argmax(rows)
    assert found.dtype == torch.long and found.shape == (200,)
    for row, place in zip(rows.tolist(), found.tolist(), strict=True):
        assert place == row.index(max(row))


def test_rows_may_be_a_part_of_something() -> None:
    whole = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        part = whole.clone()[::2, 3:]
        assert torch.equal(argmax(part), part.argmax(-1))
    assert torch.equal(argmax(whole[:0]), torch.empty(0, dtype=torch.long))
