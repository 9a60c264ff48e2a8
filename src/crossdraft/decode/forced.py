"""A model led through a given answer (teacher forcing): what it thinks at every token, whoever wrote the answer."""

from collections.abc import Iterator, Sequence
from typing import Any

from crossdraft.core.protocols import VLM
from crossdraft.core.types import Draft, Scores

CHUNK_ROWS = 16


def forced(
    model: VLM, encoded: Any, tokens: Sequence[int], capture: tuple[int, ...] = (), chunk_rows: int = CHUNK_ROWS
) -> Iterator[Scores]:
    """Rows that *predict* ``tokens``, in order: a fresh prefill gives the first, chain passes the others.

    encoded: as ``model.encode`` gives it. capture: layers whose states the rows shall carry. chunk_rows: rows of a
    pass; 1 is plain decoding. Where the model is bit-exact, the rows are the ones that decoding the same tokens
    gives, whatever the chunk. Raises SettingError when prompt and answer exceed the context.
    """
    if not tokens:
        return
    session = model.prefill(encoded, capture, len(tokens) + chunk_rows)
    yield Scores(session.first.logits[-1:], {layer: rows[-1:] for layer, rows in session.first.states.items()})
    session.commit((), tokens[0])
    at = 1
    while at < len(tokens):
        part = tokens[at : at + chunk_rows]
        # the pass over root and part[:-1] gives one row for every token of the part
        yield session.score(Draft.chain(part[:-1]))
        session.commit(tuple(range(len(part) - 1)), part[-1])
        at += len(part)
