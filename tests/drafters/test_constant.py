from pathlib import Path
from typing import Any

import pytest

from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.records import write_record
from crossdraft.core.types import Draft, Step
from crossdraft.drafters.constant import Constant, OpeningBook, book_of, read_openings


def tokens(draft: Draft) -> list[int]:
    return draft.tokens.tolist()


def test_the_most_common_opening_is_drafted_until_the_answer_leaves_it(free_width: Any, ask: Any) -> None:
    book = book_of({"q?": [[5, 6, 7, 8], [5, 6, 7, 9], [5, 6, 2], [4, 4]], "other?": [[1]]})
    drafter = Constant(book=book, costs=free_width)
    session = drafter.begin(ask("q?"), None, None)  # type: ignore[arg-type]
    assert tokens(session.propose(9)) == [5, 6, 7]  # 8 and 9 were said once each: no opening of anybody's
    session.observe(Step((5,), is_prompt=True))
    assert tokens(session.propose(9)) == [6, 7] and tokens(session.propose(1)) == [6]
    session.observe(Step((6, 3), accepted=1))
    assert tokens(session.propose(9)) == []
    session.finish()
    assert book.opening("q?")[0][:2] == [5, 6]


def test_it_learns_from_verified_answers(free_width: Any, ask: Any) -> None:
    drafter = Constant(book=OpeningBook(depth=3), costs=free_width)
    for _ in range(2):
        session = drafter.begin(ask("q?"), None, None)  # type: ignore[arg-type]
        for token in (7, 8, 9, 10):
            session.observe(Step((token,)))
        session.finish()
    opening, shares = drafter.book.opening("q?")
    assert opening == [7, 8, 9] and shares == [2 / 2.5] * 3
    assert drafter.book.opening("another?") == ([], [])
    drafter.book.reset()
    assert drafter.book.opening("q?") == ([], [])


def test_given_openings_win_and_are_read_from_a_file(free_width: Any, ask: Any, tmp_path: Path) -> None:
    path = book_of({"q?": [[5, 6]]}).save(tmp_path / "openings.json")
    given = read_openings(path)
    assert given == {"q?": [5, 6]}
    drafter = Constant(book=book_of({"q?": [[9, 9]] * 3}), costs=free_width, given=given)
    assert tokens(drafter.begin(ask("q?"), None, None).propose(9)) == [5, 6]  # type: ignore[arg-type]
    write_record(path, "openings", {"openings": {"q?": ["five"]}})
    with pytest.raises(DataError, match="token ids"):
        read_openings(path)


def test_a_book_is_bounded() -> None:
    book = OpeningBook(questions=2, answers=3)
    for question in "abc":
        for answer in range(5):
            book.learn(question, [answer])
    assert book.opening("a") == ([], []) and book.opening("c")[0] == []
    with pytest.raises(SettingError):
        OpeningBook(depth=0)
