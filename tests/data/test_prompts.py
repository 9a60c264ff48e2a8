"""The league's prompts are what they say, training prompts are never among them, and bad files are refused."""

import json
from collections import Counter
from pathlib import Path

import pytest

from crossdraft.core.errors import DataError, SettingError
from crossdraft.data.prompts import KINDS, LEAGUE, read_prompts, write_prompts, write_prompts_about


def test_the_league_is_balanced_and_fixed() -> None:
    """Twelve of each kind, half of them to tune on, the other half held out; no id and no question twice."""
    records = read_prompts(LEAGUE)
    assert Counter((r.kind, r.part) for r in records) == {(k, p): 6 for k in KINDS for p in ("tune", "held-out")}
    assert len({r.id for r in records}) == len({r.question for r in records}) == len(records) == 72
    tune, held_out = (set(read_prompts(LEAGUE, part)) for part in ("tune", "held-out"))
    assert not tune & held_out and tune | held_out == set(records)


def test_the_league_brings_its_passages() -> None:
    """Who is to summarise, rewrite or edit has 60 to 160 words to work on."""
    for record in read_prompts(LEAGUE):
        if record.kind in ("summarise", "rewrite", "code-edit"):
            assert 60 <= len(record.question.split()) <= 160, record.id
            assert "\n\n" in record.question, record.id


def test_training_prompts_are_many_distinct_and_not_the_league() -> None:
    written = write_prompts(3000)
    questions = {r.question for r in written}
    assert len(questions) == len({r.id for r in written}) == 3000
    assert not questions & {r.question for r in read_prompts(LEAGUE)}
    assert all(r.part == "training" and r.group.startswith(r.kind) for r in written)
    assert max(Counter(r.kind for r in written).values()) == 500
    for record in written:
        assert not record.question.startswith((" ", "\n")) and record.question.strip(), record
        if record.kind != "code-edit":
            assert not set("{}<>%") & set(record.question), record  # a slot that nothing filled
            assert "  " not in record.question, record


def test_prompts_about_texts() -> None:
    long = " ".join(f"Sentence number {n} says that {n} is one of the numbers." for n in range(40))
    texts = [
        ("a", long),
        ("b", "Too short."),
        ("c", f"{long}\n```python\nx = 1\n```"),
        ("d", long.replace("says", "holds")),
    ]
    made = write_prompts_about(texts, 9, seed=3)
    assert len({one.question for one in made}) == len({one.id for one in made}) == 9
    assert [one.group for one in made[:4]] == [*[one.group for one in made[:2]]] * 2 and {"a", "d"} == {
        one.group for one in made
    }
    assert {one.kind for one in made} == {"summarise", "rewrite", "question-answering"}
    for one in made:
        told = [word for word in ("says", "holds") if word in one.question]
        assert told == [{"a": "says", "d": "holds"}[one.group]] and one.part == "training"
        assert "Sentence number 9" in one.question and "Sentence number 20" not in one.question
        passage = next(part for part in one.question.split("\n\n") if part.startswith("Sentence"))
        assert passage.endswith("."), "whole sentences"
    steps = f"{long[:300]}. Here are the steps:\n1. Measure the wood.\n2. Cut the wood and then you should"
    (one,) = write_prompts_about([("e", f'"{steps}')], 1)
    assert (
        "1. Measure the wood." in one.question and "Cut the wood" not in one.question and "2." not in one.question
    )
    assert write_prompts_about(texts, 4, seed=3) == made[:4] != write_prompts_about(texts, 4, seed=4)
    for wrong, line in ((texts[1:3], "none of the 2 texts"), ([texts[0]], "different prompts can be written")):
        with pytest.raises(SettingError, match=line):
            write_prompts_about(wrong, 5000)
    with pytest.raises(SettingError, match="number of prompts is 0"):
        write_prompts_about(texts, 0)


def test_training_prompts_depend_on_the_seed_alone() -> None:
    """A longer list begins with the shorter one; another seed writes others."""
    assert write_prompts(300, 1)[:100] == write_prompts(100, 1)
    same = {r.question for r in write_prompts(100, 1)} & {r.question for r in write_prompts(100, 2)}
    assert len(same) < 20
    with pytest.raises(SettingError, match="1 or more"):
        write_prompts(0)


def _write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


GOOD = {"id": "a", "kind": "list", "question": "Name three fruits."}


def test_a_file_of_prompts(tmp_path: Path) -> None:
    """Empty lines do not matter, nor does what only Python takes for a line's end; part and group have defaults."""
    second = {**GOOD, "id": "b", "question": "One\u2028two", "part": "tune", "group": "g"}
    path = _write(tmp_path / "p.jsonl", "\ufeff" + json.dumps(GOOD), "", json.dumps(second, ensure_ascii=False), "")
    first, other = read_prompts(path)
    assert (first.part, first.group, other.part, other.group) == ("held-out", "a", "tune", "g")
    assert other.question == "One\u2028two"
    assert read_prompts(path, "tune") == [other]
    with pytest.raises(DataError, match="no prompt of the part 'training'"):
        read_prompts(path, "training")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: is not valid JSON"),
        ("[1]", "line 2: is no object"),
        (json.dumps({**GOOD, "id": "b"}), "line 2: has the question of line 1"),
        (json.dumps({**GOOD, "question": "x"}), "line 2: has the id of line 1"),
        (json.dumps({"id": "b", "kind": "list"}), "line 2: question is None"),
        (json.dumps({**GOOD, "id": 3}), "line 2: id is 3"),
        (json.dumps({**GOOD, "id": "b", "kind": "song"}), "line 2: kind is 'song'"),
        (json.dumps({**GOOD, "id": "b", "part": "test"}), "line 2: part is 'test'"),
        (json.dumps({**GOOD, "id": "b", "answer": "x"}), "line 2: has unknown keys answer"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_prompts(_write(tmp_path / "p.jsonl", json.dumps(GOOD), line))


def test_no_prompts_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no prompt"):
        read_prompts(_write(tmp_path / "p.jsonl", ""))
    with pytest.raises(DataError, match="cannot be read"):
        read_prompts(tmp_path / "none.jsonl")
