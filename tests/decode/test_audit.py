from typing import Any

import pytest

from crossdraft.core.prompt import Prompt
from crossdraft.core.types import Limits
from crossdraft.decode.audit import audit
from crossdraft.decode.loop import generate
from crossdraft.verify.greedy import Greedy


@pytest.mark.parametrize("chunk_rows", [1, 2, 7, 16, 64])
def test_a_true_answer_passes_and_every_false_token_is_reported(tiny: Any, prompt: Prompt, chunk_rows: int) -> None:
    limits = Limits(max_new_tokens=20)
    answer = generate(tiny.target, tiny.drafter("ngram"), prompt, rule=Greedy(), limits=limits)
    report = audit(tiny.target, prompt, answer, chunk_rows=chunk_rows)
    assert report.passed and report.checked == 20 and "all 20 tokens" in report.verdict
    for at in (0, 1, 9, 19):
        # beyond a false token the reference goes on from that token, so only tokens up to it are judged alike
        wrong = list(answer.tokens[: at + 1])
        wrong[at] = (wrong[at] + 1) % tiny.target.vocab_size
        report = audit(tiny.target, prompt, wrong, chunk_rows=chunk_rows)
        (doubt,) = report.doubts
        assert (doubt.position, doubt.token, doubt.reference) == (at, wrong[at], answer.tokens[at])
        assert doubt.gap > 0 and not report.passed and f"at token {at}" in report.verdict


def test_an_empty_answer_has_nothing_to_check(tiny: Any, prompt: Prompt) -> None:
    assert audit(tiny.target, prompt, []).passed
