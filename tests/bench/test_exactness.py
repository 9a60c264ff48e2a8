from dataclasses import replace
from typing import Any

from crossdraft.bench.exactness import Tally, run_exactness
from crossdraft.bench.workbench import Workbench
from crossdraft.core.types import Draft, Generation, Round, Verdict


def test_nothing_differs_on_an_exact_model(bench: Workbench, prompts: list[Any]) -> None:
    body = run_exactness({"float64": bench}, prompts[:2], max_new_tokens=40, quick=True)
    assert body["passed"] and body["differ"] == 0
    assert body["verdict"].startswith("0 of ")
    assert set(body["groups"]) == {"float64, greedy", "float64, temperature 0.7", "float64, temperature 1.0"}
    greedy = body["groups"]["float64, greedy"]
    assert greedy["runs"] == 6 * 3 and greedy["widest"] == 32


class Gullible:
    """A broken rule: it believes every draft."""

    lossless = True
    name = "greedy"

    def __call__(self, draft: Draft, logits: Any, position: int) -> Verdict:
        return Verdict(tuple(range(len(draft))), int(logits[-1].argmax()))


def test_a_broken_rule_is_caught(bench: Workbench, prompts: list[Any]) -> None:
    broken = replace(bench, make_rule=lambda temperature, seed: Gullible())
    body = run_exactness({"float64": broken}, prompts[:2], max_new_tokens=24, quick=True, temperatures=())
    assert not body["passed"] and body["differ"] > 0
    assert "at token" in body["groups"]["float64, greedy"]["first_differences"][0]


def test_missing_and_surplus_tokens_differ() -> None:
    tally = Tally()
    for own in ([1, 2, 3], [1, 2], [1, 2, 3, 4], [1, 9, 3]):
        tally.add("x", [1, 2, 3], Generation(tokens=own, rounds=[Round("x", 4, 1, 2, {})]))
    assert (tally.runs, tally.tokens, tally.differ, tally.widest) == (4, 12, 3, 5)
    assert tally.first_differences == ["x: at token 2", "x: at token 3", "x: at token 1"]
