from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from crossdraft.decode.stream import TextStream


class Bytes:
    """One id for each byte, so that a character may take up to four tokens."""

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode(errors="replace")

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


class Words:
    """Like sentence pieces: every word carries its space, which decoding drops at the very beginning."""

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(f"w{t}" for t in tokens)

    def encode(self, text: str) -> list[int]:
        return [int(word[1:]) for word in text.split()]


@settings(max_examples=80, deadline=None)
@given(
    text=st.text(alphabet="aé漢🚗 b\n", max_size=12), sizes=st.lists(st.integers(1, 5), min_size=60, max_size=60)
)
def test_text_comes_whole_and_never_as_half_a_character(text: str, sizes: list[int]) -> None:
    stream, tokens, shown = TextStream(Bytes()), Bytes().encode(text), ""
    for size in sizes:
        part, tokens = tokens[:size], tokens[size:]
        fresh, used = stream.push(part)
        assert "\ufffd" not in fresh and used == len(part)
        shown += fresh
    assert shown + stream.finish() == text == stream.text


def test_an_unfinished_character_shows_at_the_end() -> None:
    stream = TextStream(Bytes())
    assert stream.push("é".encode()[:1]) == ("", 1)
    assert stream.finish() == "\ufffd"


def test_spaces_between_words_are_kept() -> None:
    stream = TextStream(Words())
    assert [stream.push([i])[0] for i in (1, 2, 3)] == ["w1", " w2", " w3"]


@settings(max_examples=120, deadline=None)
@given(
    text=st.text(alphabet="ab🚗", max_size=14),
    stop=st.lists(st.text(alphabet="ab🚗", min_size=1, max_size=4), min_size=1, max_size=3),
    size=st.integers(1, 6),
)
def test_nothing_of_a_stop_string_or_behind_it_is_ever_shown(text: str, stop: list[str], size: int) -> None:
    stream, tokens, shown, used_in_all = TextStream(Bytes(), stop), Bytes().encode(text), "", 0
    # where plain reading, one token at a time, would have stopped
    raw = text.encode()
    ends = [n for n in range(len(raw) + 1) if any(s in raw[:n].decode(errors="ignore") for s in stop)]
    while tokens and stream.stopped is None:
        fresh, used = stream.push(tokens[:size])
        tokens, shown, used_in_all = tokens[size:], shown + fresh, used_in_all + used
    shown += stream.finish()
    assert shown == stream.text
    if ends:
        assert used_in_all == ends[0] and stream.stopped in stop
        full = raw[: ends[0]].decode(errors="ignore")
        assert shown == full[: min(full.index(s) for s in stop if s in full)]
    else:
        assert stream.stopped is None and shown == text


def test_the_beginning_of_a_stop_string_is_held_back_until_it_is_known_not_to_be_one() -> None:
    stream = TextStream(Bytes(), ("END",))
    assert stream.push(b"abE")[0] == "ab"
    assert stream.push(b"N")[0] == ""
    assert stream.push(b"x")[0] == "ENx"
    assert stream.push(b"EN")[0] == ""
    assert stream.finish() == "EN"


def test_the_cost_per_token_does_not_grow() -> None:
    class Counting(Bytes):
        longest = 0

        def decode(self, tokens: Sequence[int]) -> str:
            Counting.longest = max(Counting.longest, len(tokens))
            return super().decode(tokens)

    stream = TextStream(Counting(), ("never",))
    stream.push(b"a" * 500)
    assert Counting.longest <= 3
