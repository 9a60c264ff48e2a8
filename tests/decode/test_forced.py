"""Leading a model through an answer gives the rows that a recomputed text gives, whatever the pass width."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossdraft.core.prompt import Prompt
from crossdraft.decode.forced import forced


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tokens=st.lists(st.integers(2, 23), min_size=1, max_size=20), chunk=st.integers(1, 24), seed=st.integers(0, 3)
)
def test_rows_are_those_of_the_text_so_far(make_tiny: Any, ask: Any, tokens: Any, chunk: int, seed: int) -> None:
    model, prompt = make_tiny(seed), ask("what moves?")
    encoded = model.encode(prompt)
    parts = list(forced(model, encoded, tokens, (-1,), chunk))
    logits, states = (torch.cat(rows) for rows in zip(*((p.logits, p.states[-1]) for p in parts), strict=True))
    assert len(logits) == len(states) == len(tokens)
    expected = torch.stack([model.state([*encoded, *tokens[:t]]) for t in range(len(tokens))])
    torch.testing.assert_close(states, expected)
    torch.testing.assert_close(logits, model.unembed(expected).float())


def test_no_answer_no_pass(tiny: Any, prompt: Prompt) -> None:
    assert list(forced(tiny.target, tiny.target.encode(prompt), [])) == []
    assert not tiny.target.sessions


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_no_pass_is_wider_than_asked(tiny: Any, prompt: Prompt, chunk: int) -> None:
    list(forced(tiny.target, tiny.target.encode(prompt), list(range(2, 20)), chunk_rows=chunk))
    assert max(tiny.target.sessions[-1].widths) <= chunk
