"""Tokens to text as they come: never half a character, never the beginning of a stop string."""

from collections.abc import Sequence

from crossdraft.core.protocols import Tokenizer

REPLACEMENT = "\ufffd"


class TextStream:
    """Incremental detokenisation with stop strings; works with any tokenizer that can decode a list of ids.

    A token's text may depend on its neighbour (a leading space, a character of several bytes), so each piece is the
    difference of two decodings that share the tokens before it. The cost per token does not grow with the answer.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._decode, self._stop = tokenizer.decode, tuple(stop)
        self._tokens: list[int] = []
        self._before = self._read = 0  # decoded context starts at _before, new text at _read
        self._held = ""  # decoded, but perhaps the beginning of a stop string
        self.text = ""
        self.stopped: str | None = None

    def push(self, tokens: Sequence[int]) -> tuple[str, int]:
        """Take ``tokens``; (text that can be shown now, number of tokens used).

        Fewer tokens are used than given when one of them completes a stop string: it is the last one used,
        ``stopped`` says which string it was, and neither the string nor anything behind it is ever shown.
        """
        shown = len(self.text)
        for used, token in enumerate(tokens, 1):
            self._tokens.append(token)
            if self._take(self._fresh(), is_last=False):
                return self.text[shown:], used
        return self.text[shown:], len(tokens)

    def finish(self) -> str:
        """Text that was held back and is now known to be the end; an unfinished character shows as U+FFFD."""
        shown = len(self.text)
        if self.stopped is None:
            self._take(self._fresh(is_last=True), is_last=True)
        return self.text[shown:]

    def _fresh(self, is_last: bool = False) -> str:
        old = self._decode(self._tokens[self._before : self._read])
        new = self._decode(self._tokens[self._before :])
        if len(new) <= len(old) or (new.endswith(REPLACEMENT) and not is_last):
            return ""
        self._before, self._read = self._read, len(self._tokens)
        return new[len(old) :]

    def _take(self, fresh: str, is_last: bool) -> bool:
        """Move ``fresh`` to the text, up to a stop string if one is complete; whether one was."""
        pending = self._held + fresh
        hits = [(pending.find(s), -len(s), s) for s in self._stop if s in pending]
        if hits:
            at, _, self.stopped = min(hits)
            self.text, self._held = self.text + pending[:at], ""
            return True
        keep = 0 if is_last else max((_overlap(pending, s) for s in self._stop), default=0)
        self._held = pending[len(pending) - keep :]
        self.text += pending[: len(pending) - keep]
        return False


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
