import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.bench.paired import BRIEF, bootstrap, run_paired, summarise
from crossdraft.core.errors import SettingError
from crossdraft.core.types import Generation, Round


def answer(tokens: list[int], emitted: list[int], decode_ms: float, total_ms: float) -> Generation:
    rounds = [Round("x", n + 1, n - 1, n, {}) for n in emitted]
    return Generation(tokens=tokens, rounds=rounds, spans_ms={"decode": decode_ms, "total": total_ms})


def test_a_row_is_pooled_and_a_speed_up_is_a_ratio_of_sums() -> None:
    plain = [answer([1, 2, 3], [1, 1], 20.0, 30.0), answer([1, 2, 3, 4, 5], [1, 1, 1, 1], 40.0, 50.0)]
    fast = [answer([1, 2, 3], [2], 30.0, 40.0), answer([1, 2, 3, 4, 5], [4], 10.0, 20.0)]
    none, own = summarise({"none": plain, "x": fast})
    assert none.speedup_decode == none.speedup_e2e == none.tau == 1.0
    assert own.identical and own.tokens == 8
    assert own.tau == pytest.approx(6 / 2)
    assert own.speedup_decode == pytest.approx(60 / 40)
    assert own.speedup_e2e == pytest.approx(80 / 60)
    assert own.slower_share == pytest.approx(0.5)
    assert own.decode_tokens_per_s == pytest.approx(6 / 40 * 1e3)
    assert own.draft_utilisation == pytest.approx(4 / 8)
    assert tuple(own.brief()) == BRIEF


def test_another_token_is_seen() -> None:
    rows = summarise({"none": [answer([1, 2], [1], 1, 1)], "x": [answer([1, 3], [1], 1, 1)]})
    assert [row.identical for row in rows] == [True, False]


def test_every_contender_answers_every_prompt_in_order_and_the_warm_up_is_dropped() -> None:
    asked: list[tuple[str, int]] = []

    def contender(name: str):
        def run(prompt: int) -> Generation:
            asked.append((name, prompt))
            return answer([prompt], [], 0, 0)

        return run

    answers = run_paired({n: contender(n) for n in ("none", "a", "b")}, 6, seed=1, warm_up=2)
    assert asked[:2] == [("none", 0)] * 2
    assert all([g.tokens for g in answers[n]] == [[i] for i in range(6)] for n in answers)
    orders = {tuple(name for name, _ in asked[2 + 3 * i : 5 + 3 * i]) for i in range(6)}
    assert len(orders) > 1, "the order of contenders must be shuffled"


def test_an_answer_of_another_length_is_compared_at_equal_length() -> None:
    plain = [answer([1, 2, 3, 4, 5], [1, 1, 1, 1], 40.0, 50.0)]
    short = [answer([1, 2, 9], [1, 1], 20.0, 30.0)]
    own = summarise({"none": plain, "x": short})[1]
    # as fast a token as plain decoding: half the tokens in half the time
    assert own.speedup_decode == pytest.approx(1.0) and own.speedup_e2e == pytest.approx(1.0)
    assert own.decode_tokens_per_s == pytest.approx(2 / 20 * 1e3) and own.slower_share == 0


def test_answers_of_one_group_are_drawn_together() -> None:
    plain, own = np.array([10.0, 10, 10, 10]), np.array([10.0, 2, 10, 2])
    apart = bootstrap(plain, own, draws=400)
    together = bootstrap(plain, own, draws=400, groups=[0, 0, 1, 1])
    assert together == pytest.approx((40 / 24, 40 / 24)), "both groups are alike"
    assert apart[0] < together[0] < apart[1]
    assert bootstrap(plain, own, groups=[3, 3, 3, 3]) == pytest.approx((40 / 24, 40 / 24))


def test_a_contender_that_fails_is_told_and_left_out() -> None:
    def failing(prompt: int) -> Generation:
        if prompt == 1:
            raise ValueError("no")
        return answer([1], [], 0, 0)

    failed: dict[str, Exception] = {}
    contenders = {"none": lambda i: answer([1], [], 0, 0), "bad": failing}
    answers = run_paired(contenders, 3, on_error=failed.__setitem__)
    assert set(answers) == {"none"} and len(answers["none"]) == 3 and str(failed["bad"]) == "no"
    with pytest.raises(ValueError, match="no"):
        run_paired(contenders, 3)
    with pytest.raises(ValueError, match="no"):
        run_paired({"none": failing}, 3, on_error=failed.__setitem__)


def test_plain_decoding_must_take_part() -> None:
    with pytest.raises(SettingError, match="plain decoding"):
        run_paired({}, 1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=1, max_size=12))
def test_the_interval_lies_within_the_extreme_ratios(times: list[tuple[float, float]]) -> None:
    plain, own = map(np.array, zip(*times, strict=True))
    low, high = bootstrap(plain, own, draws=200)
    ratios = plain / own
    assert ratios.min() - 1e-9 <= low <= high <= ratios.max() + 1e-9
