"""A corpus: a target's own answers as token ids, what drafting heads are trained on.

    with CorpusWriter(folder, identity) as writer:         # begins a corpus or goes on with one
        writer.kept                                        # replies that an earlier run left
        writer.append(replies); writer.finish()
    corpus = read_corpus(folder); corpus.replies, corpus.counts(vocab_size)

    folder/corpus.json        the target, the settings, the prompts; once it is whole, counts and the digest
    folder/answers.jsonl      one reply a line

Replies are appended and synced. A corpus is whole when corpus.json says so, and only then it can be read.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from crossdraft.core.errors import DataError
from crossdraft.core.provenance import provenance
from crossdraft.core.records import read_record, write_atomically, write_record
from crossdraft.data.store import Store
from crossdraft.data.store.durable import append_durably, cannot_write, lock

KIND, RECORD, ANSWERS = "corpus", "corpus.json", "answers.jsonl"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the target said to one prompt. group: what is held out together; clip: id of the clip's question in the
    data set of the corpus, None for text; tokens: ids with the end token, where the target came to one."""

    id: str
    group: str
    question: str
    tokens: tuple[int, ...]
    temperature: float = 0.0
    clip: str | None = None


@dataclass(frozen=True)
class Corpus:
    """All replies of a target. about: the record, as it was written."""

    root: Path
    about: Mapping[str, Any]
    replies: tuple[Reply, ...]

    @property
    def num_tokens(self) -> int:
        """Of all replies."""
        return sum(len(reply.tokens) for reply in self.replies)

    def counts(self, vocab_size: int) -> Int64[np.ndarray, "V"]:
        """How often the target said each token. DataError for tokens beyond ``vocab_size``."""
        ids = np.fromiter((token for reply in self.replies for token in reply.tokens), np.int64)
        if ids.max(initial=0) >= vocab_size:
            raise DataError(
                f"{self.root}: has token {ids.max()}, but the vocabulary has {vocab_size}; name its target"
            )
        return np.bincount(ids, minlength=vocab_size)


def read_corpus(root: str | Path) -> Corpus:
    """The corpus in ``root``. DataError when there is none, it is not whole, or a reply has changed since."""
    root = Path(root)
    if not (root / RECORD).exists():
        raise DataError(f"{root}: holds no corpus; make one: crossdraft data answers --target DIR --out {root}")
    about = read_record(root / RECORD, KIND)
    if not about.get("whole"):
        raise DataError(
            f"{root}: is not finished; run the command that makes it again, it goes on where it stopped"
        )
    try:
        raw = (root / ANSWERS).read_bytes()
    except OSError as error:
        raise DataError(f"{root / ANSWERS}: cannot be read ({error.strerror}); make the corpus again") from error
    if hashlib.sha256(raw).hexdigest() != about.get("sha256"):
        raise DataError(f"{root / ANSWERS}: is not what {RECORD} says; it is damaged, make the corpus again")
    return Corpus(root, about, tuple(_replies(raw, root / ANSWERS)))


def replies_of(store: Store) -> list[Reply]:
    """The answers that a store of paired states holds, greedy ones, grouped by recording; a reply's clip is its
    sample's id. DataError when the store holds no token ids."""
    if not store.identity.has_tokens:
        raise DataError(f"{store.root}: holds texts without token ids; extract it again")
    replies = []
    for entry, sample in zip(store.entries, store, strict=True):
        assert sample.target_tokens is not None
        tokens = tuple(sample.target_tokens.tolist())
        replies.append(
            Reply(id=entry.id, group=entry.recording, question=entry.question, tokens=tokens, clip=entry.id)
        )
    return replies


class CorpusWriter:
    """Makes a corpus, or goes on with one of the same identity; one writer at a time.

    identity: whatever decides the answers (no dates, no places); note: what else the record shall say. kept: the
    whole replies that are there already, in the order of writing. Raises DataError for a corpus of another
    identity, CrossdraftError when it cannot be written.
    """

    def __init__(
        self, root: str | Path, identity: Mapping[str, Any], note: Mapping[str, Any] | None = None
    ) -> None:
        self.root, self.identity = Path(root), json.loads(json.dumps(identity))
        self._note = dict(note or {})
        self.kept: list[Reply] = []
        self.whole = False
        self._file: int | None = None

    def __enter__(self) -> "CorpusWriter":
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.root, error) from error
        self._lock = lock(self.root / ".lock", f"{self.root}: another process is writing this corpus; wait for it")
        try:
            self._open()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def _open(self) -> None:
        answers = self.root / ANSWERS
        if (self.root / RECORD).exists():
            about = read_record(self.root / RECORD, KIND)
            for key, value in self.identity.items():
                if about.get(key) != value:
                    raise DataError(
                        f"{self.root}: is another corpus ('{key}' was {_short(about.get(key))}, now "
                        f"{_short(value)}); name another folder"
                    )
            self.whole = bool(about["whole"])
            self.kept = list(read_corpus(self.root).replies) if self.whole else self._mend(answers)
        else:
            self._record({"whole": False})
            write_atomically(answers, b"")

    def _mend(self, answers: Path) -> list[Reply]:
        raw = answers.read_bytes() if answers.exists() else b""
        end = raw.rfind(b"\n") + 1
        if end != len(raw) or not answers.exists():  # an append that did not finish
            write_atomically(answers, raw[:end])
        return _replies(raw[:end], answers)

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)
        os.close(self._lock)

    def keep(self, count: int) -> None:
        """Only the first ``count`` of the kept replies; the others will be written again."""
        assert self._file is None and not self.whole, "before the first append"
        if count < len(self.kept):
            del self.kept[count:]
            write_atomically(self.root / ANSWERS, b"".join(map(_line, self.kept)))

    def append(self, replies: Sequence[Reply]) -> None:
        """Once this returns they are on the disk. CrossdraftError when they cannot be written."""
        assert not self.whole
        path = self.root / ANSWERS
        try:
            if self._file is None:
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
            append_durably(self._file, b"".join(map(_line, replies)))
        except OSError as error:
            raise cannot_write(path, error) from error
        self.kept += replies

    def finish(self) -> None:
        """Declare the corpus whole."""
        if self.whole:
            return
        digest = hashlib.sha256((self.root / ANSWERS).read_bytes()).hexdigest()
        tokens = sum(len(reply.tokens) for reply in self.kept)
        self._record({"whole": True, "sha256": digest, "num_replies": len(self.kept), "num_tokens": tokens})
        self.whole = True

    def _record(self, more: Mapping[str, Any]) -> None:
        write_record(self.root / RECORD, KIND, {**self.identity, **self._note, **more, "provenance": provenance()})


def _line(reply: Reply) -> bytes:
    return json.dumps(asdict(reply), separators=(",", ":")).encode() + b"\n"


def _replies(raw: bytes, path: Path) -> list[Reply]:
    replies = []
    for number, line in enumerate(raw.splitlines(), 1):
        try:
            body = json.loads(line)
            replies.append(Reply(**{**body, "tokens": tuple(map(int, body["tokens"]))}))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}, line {number}: is no reply ({error}); make the corpus again") from error
    return replies


def _short(value: Any) -> str:
    return f"{json.dumps(value):.80}"
