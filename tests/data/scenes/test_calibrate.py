import gzip
import json
from pathlib import Path

import pytest

from crossdraft.data.scenes import calibrate, make_stream
from crossdraft.data.scenes.calibrate import NGramMemory, grams_of, memory_tau, passes, repeats
from crossdraft.data.scenes.lexicon import words

REAL_LOG = Path(__file__).parents[4] / "shared/data/reference/tokens_1q_1100clips.jsonl.gz"


def test_words_and_marks_are_counted():
    assert words("A red car, medium-sized.") == ["A", "red", "car", ",", "medium", "-", "sized", "."]


def test_longest_context_and_most_frequent_continuation_win():
    memory = NGramMemory(4)
    for answer in ([1, 2, 3, 4], [1, 2, 3, 4], [9, 2, 3, 5]):
        memory.add(grams_of(answer))
    assert memory.chain([2, 3], 1) == [4]
    assert memory.chain([9, 2, 3], 1) == [5]
    assert memory.chain([7, 1], 8) == [2, 3, 4]
    assert memory.chain([7], 8) == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([1, 2, 3, 4, 5], 1),  # all four drafted and accepted
        ([1, 2, 3, 9, 5], 2),  # 2 3 accepted, 9 is the bonus; nothing follows 9, so 5 is one more pass
        ([8, 7, 6], 2),  # nothing known: one pass a token
        ([1], 0),
    ],
)
def test_passes_count_the_bonus_and_leave_the_first_token_free(answer, expected):
    memory = NGramMemory(4)
    memory.add(grams_of([1, 2, 3, 4, 5]))
    assert passes(answer, memory) == expected


def test_a_narrow_chain_needs_more_passes():
    memory = NGramMemory(4)
    memory.add(grams_of(list(range(33))))
    assert passes(list(range(33)), memory, width=16) == 2
    assert passes(list(range(33)), memory, width=8) == 4


def test_a_small_log_by_hand():
    log = [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 9, 4], [1, 2, 9, 4]]
    assert repeats(log) == (2, 3)
    # clip 1: one pass of 3; clip 2: 2 accepted, 9 is the bonus, then 4; clip 3: after 1 2 still 3, so 2 9, then 4
    assert memory_tau(log) == (9, 1 + 2 + 2)
    # a memory of one clip alone knows that 9 follows
    assert memory_tau(log, clips=1) == (9, 1 + 2 + 1)


@pytest.mark.skipif(not REAL_LOG.exists(), reason="the real log is not beside this checkout")
def test_the_real_log_gives_its_published_figures():
    with gzip.open(REAL_LOG, "rt", encoding="utf-8") as lines:
        answers = [json.loads(line)["target"] for line in lines]
    tokens, num_passes = memory_tau(answers, start=64)
    assert abs(tokens / num_passes - 4.04) < 0.005
    same, pairs = repeats(answers)
    assert round(same / pairs, 2) == 0.12


def test_scenes_are_about_as_hard_to_guess_as_real_answers():
    figures = calibrate([make_stream(500 + seed, 44) for seed in range(2)])
    assert 3.5 <= figures["all"].tau <= 4.5
    taus = [c.tau for name, c in figures.items() if name != "all"]
    assert 3 <= sum(taus) / len(taus) <= 5
    assert figures["all"].repeat_share <= 0.15
    assert all(c.min_tokens >= 30 and c.max_tokens <= 120 for c in figures.values())


def test_a_stream_of_cuts_is_harder_to_guess_than_a_drive():
    drive, cut = (calibrate([make_stream(77, 22, kind)])["all"] for kind in ("drive", "cut"))
    assert cut.tau < drive.tau and cut.repeat_share < 0.02
