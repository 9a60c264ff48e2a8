import json

import pytest

from crossdraft.bench.verdict import compare, describe, rounds_of
from crossdraft.core.types import Generation, Round


def answer(tokens: list[int], decode_ms: float, total_ms: float) -> Generation:
    return Generation(
        tokens=tokens,
        rounds=[Round("x", 3, 1, 2, {"verify": 1.0})] if len(tokens) > 1 else [],
        spans_ms={"decode": decode_ms, "total": total_ms},
    )


@pytest.mark.parametrize(
    ("own_ms", "words"),
    [(50.0, "and faster"), (100.0, "and nothing was gained"), (150.0, "but nothing was gained, it was slower")],
)
def test_the_sentence_follows_the_whole_request(own_ms: float, words: str) -> None:
    body = compare(answer([1, 2], 80.0, 100.0), answer([1, 2], own_ms * 0.8, own_ms))
    assert body["identical"] and words in body["verdict"]
    assert body["speedup_e2e"] == pytest.approx(100.0 / own_ms)


@pytest.mark.parametrize(("tokens", "at"), [([1, 9, 3], 1), ([1, 2], 2), ([1, 2, 3, 4], 3)])
def test_a_difference_is_located(tokens: list[int], at: int) -> None:
    body = compare(answer([1, 2, 3], 1.0, 1.0), answer(tokens, 1.0, 1.0))
    assert not body["identical"]
    assert body["verdict"] == f"NOT identical to plain decoding: the tokens differ from number {at} on"


def test_an_answer_of_one_token_has_no_tau_and_fits_a_record() -> None:
    body = json.loads(json.dumps({**describe(answer([1], 0.0, 1.0)), "rounds": rounds_of(answer([1], 0, 1))}))
    assert body["tau"] is None and body["passes"] == 0 and body["rounds"] == []
    assert compare(answer([1], 0.0, 1.0), answer([1], 0.0, 1.0))["verdict"].endswith("too short to time")
