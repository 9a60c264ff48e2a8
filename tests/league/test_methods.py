"""The table of methods: every line is lazy, and says what a record must know of it."""

import json
from typing import Any, cast

import pytest
import torch

from crossdraft.bench.league import Method
from crossdraft.bench.published_methods import PUBLISHED, published
from crossdraft.bench.workbench import Capped
from crossdraft.league.methods import METHODS
from crossdraft.league.setup import Setup, weight_bytes


class Nothing:
    """Whoever touches it has loaded something."""

    def __getattr__(self, name: str) -> Any:
        pytest.fail(f"'{name}' was looked at before it was needed")


@pytest.mark.parametrize("name", METHODS)
def test_a_line_of_the_table_loads_nothing(name: str) -> None:
    method = METHODS[name](cast(Setup, Nothing()))
    assert isinstance(method, Method) and method.name == name
    assert (method.make is None) != (method.enter is None)
    assert method.kind in ("baseline", "training-free", "trained", "control")
    for settings in (method.settings, *method.grid, *([method.equal(9, 4)] if method.equal else [])):
        assert json.loads(json.dumps(settings)) == settings, "settings go into a record"
    assert method.settings in (*method.grid, method.settings)


def test_weights_are_read_once() -> None:
    setup, loads = Setup(*[cast(Any, None)] * 3), []
    for _ in range(3):
        assert setup.once("head", lambda: loads.append(1) or "weights") == "weights"
    assert len(loads) == 1


def test_a_chain_is_cut_at_its_length() -> None:
    class Bench:
        costs = "measured"

        def make_drafter(self, name: str, costs: Any) -> Any:
            return type("D", (), {"name": name, "needs": None, "costs": costs})()

    setup = Setup(cast(Any, None), cast(Any, Bench()), cast(Any, None))
    plain, cut = setup.chain("ngram", {}), setup.chain("ngram", {"length": 5, "free": True})
    assert plain.costs == "measured"  # type: ignore[attr-defined]
    assert isinstance(cut, Capped) and cut.width == 6 and cut.inner.costs != "measured"  # type: ignore[attr-defined]


def test_bytes_of_a_module() -> None:
    assert weight_bytes(torch.nn.Linear(3, 5, dtype=torch.bfloat16)) == 2 * (3 * 5 + 5)


def test_published_figures_have_sources() -> None:
    for name, told in PUBLISHED.items():
        assert any(source in told for source in ("arXiv", "Spec-Bench", "clips")), name
    assert published("none") is None
