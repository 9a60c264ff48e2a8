from collections.abc import Callable
from typing import Any

import pytest

from crossdraft.bench.workbench import Workbench
from crossdraft.core.types import Sampling
from crossdraft.verify import rule_for


@pytest.fixture
def bench(tiny: Any, free_width: Any, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    """The tiny pair on a workbench; as in life, its target does not look at the events."""
    monkeypatch.setattr(
        tiny.target, "encode", lambda prompt: [-1, -1, *tiny.target.tokenizer.encode(prompt.question)]
    )
    return Workbench(
        tiny.target, tiny.event_model, lambda name, costs=None: tiny.drafter(name),
        lambda temperature, seed: rule_for(Sampling(temperature=temperature, seed=seed)), free_width,
    )  # fmt: skip


@pytest.fixture
def prompts(ask: Callable[..., Any]) -> list[Any]:
    """Five clips of one stream that differ in their events."""
    return [ask("what is there to see?", num_events=5 + i) for i in range(5)]
