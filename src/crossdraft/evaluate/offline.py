"""What an adapter makes of stored pairs: its cosines, its tokens, and the drafts it would have had accepted.

In a teacher-forced store both models read the target's answer, which is the text that decoding verifies: the token
that a causal adapter gives at a position is the one it would draft behind the same verified text, and, as long as
the draft is right, behind its own draft too. So the runs of matches from a position on *are* the drafts accepted
there, and rounds of decoding can be played through without a model. Two kinds of adapter need more care: one that
looks ahead is run on prefixes, as drafting runs it, and one that reads the target's states is given its own guesses
in their place behind the verified text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from crossdraft.adapters import Adapter
from crossdraft.adapters.base import DRAFT, TARGET, TOKENS
from crossdraft.core import rounds
from crossdraft.core.errors import DataError
from crossdraft.data.store import PairedStates, Store
from crossdraft.evaluate.acceptance import Rounds
from crossdraft.evaluate.ragged import Cosines, Matches, Ranks

# rows whose logits are held at once
_LOGIT_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Candidate:
    """Whose tokens are judged: an adapter with the target's head behind it, or a model's own head on its states.

    head: (V, D), the target's; for ``adapter`` None the event model's own. embeddings: (V, D) of the target, for an
    adapter that reads tokens. whole: run a level that looks ahead on the whole answer at once, as the study did.
    """

    name: str
    head: Float[Tensor, "V D"]
    adapter: Adapter | None = None
    embeddings: Float[Tensor, "V D"] | None = None
    trained_on: str | None = None
    whole: bool = False

    @property
    def void(self) -> str | None:
        """Why its figures say nothing about drafting; None if they do."""
        if self.adapter is not None and self.adapter.sees_its_target:
            return "reads the very target state that it must give"
        if self.whole and self.adapter is not None and not self.adapter.causal:
            return "reads later states of the answer, which a draft does not have"
        return None

    @property
    def parameters(self) -> int:
        """Trained weights."""
        return 0 if self.adapter is None else sum(p.numel() for p in self.adapter.parameters())


@dataclass(frozen=True, eq=False)
class Judged:
    """What a candidate made of N samples.

    cosines: with the target's states; None where the widths differ. ranks: of the target's token.
    runs: for each sample and each position p from 0, how many tokens of a draft made behind p verified tokens would
    be accepted (of an adapter that reads the target's states, the first ``depth`` were tried); None where that
    cannot be known (a void candidate, texts that differ).
    """

    cosines: Cosines | None
    matches: Matches
    ranks: Ranks
    runs: tuple[Int[np.ndarray, "K"], ...] | None
    depth: int


@torch.inference_mode()
def judge(store: Store, candidate: Candidate, *, depth: int = 8, batch: int = 16) -> Judged:
    """Run ``candidate`` over every sample of ``store``.

    Of free-running pairs position t of one text is held against position t of the other, as the study did; what
    would be accepted cannot be known from them. Raises DataError when widths or vocabulary do not fit the store,
    and when it is empty.
    """
    _check(store, candidate)
    parts = [_judged(samples, candidate, store, depth) for samples in _batches(store, batch)]
    cosines, hits, ranks, lengths, runs = zip(*parts, strict=True)
    count = np.concatenate(lengths)
    knows_runs = candidate.void is None and store.identity.mode == "teacher-forced"
    return Judged(
        cosines=None if cosines[0] is None else Cosines(np.concatenate(cosines), count),
        matches=Matches(np.concatenate(hits), count),
        ranks=Ranks(np.concatenate(ranks), count),
        runs=tuple(own for part in runs for own in part) if knows_runs else None,
        depth=depth,
    )


def play(runs: Sequence[Int[np.ndarray, "K"]], length: int) -> Rounds:
    """Rounds of greedy decoding in which every draft has ``length`` tokens, as the decode loop goes through them.

    The first token comes from the target's prefill; the last round is cut where the answer ends. Raises DataError
    when ``length`` is below 1.
    """
    if length < 1:
        raise DataError(f"drafts of {length} tokens make no rounds; give 1 or more")
    played = [rounds.play(own.tolist(), length) for own in runs]
    pairs = np.array([pair for own in played for pair in own], dtype=np.int64).reshape(-1, 2)
    lengths = np.array([len(own) for own in played], dtype=np.int64)
    return Rounds(np.full(len(pairs), length, dtype=np.int64), pairs[:, 0], pairs[:, 1], lengths)


def first_runs(judged: Judged) -> Int[np.ndarray, "N"]:
    """Accepted tokens of a first and only draft of any length, behind the target's own first token, per sample."""
    assert judged.runs is not None, "what would be accepted is not known"
    return np.array([own[1] if len(own) > 1 else 0 for own in judged.runs], dtype=np.int64)


def _check(store: Store, candidate: Candidate) -> None:
    identity = store.identity
    if not len(store):
        raise DataError(f"{store.root}: holds no sample; extract some first")
    wanted = {"target": identity.target_width, "event model": identity.draft_width}
    adapter = candidate.adapter
    if adapter is None:
        if candidate.head.shape[1] != identity.draft_width:
            raise DataError(
                f"{store.root}: event states have width {identity.draft_width}, but the head of '{candidate.name}' "
                f"takes {candidate.head.shape[1]}; it belongs to another event model"
            )
        return
    for side, mine in (("event model", adapter.width_in), ("target", adapter.width_out)):
        if mine != wanted[side] and (side == "target" or DRAFT in adapter.inputs):
            raise DataError(
                f"{store.root}: states of the {side} have width {wanted[side]}, but adapter '{candidate.name}' was "
                f"made for {mine}; it belongs to another pair"
            )
    if candidate.head.shape[1] != identity.target_width:
        raise DataError(
            f"{store.root}: target states have width {identity.target_width}, but the head takes "
            f"{candidate.head.shape[1]}; give the head of this target"
        )
    if TOKENS in adapter.inputs and candidate.embeddings is None:
        raise DataError(f"adapter '{candidate.name}' reads tokens: the target's embeddings are needed")


def _batches(store: Store, size: int) -> Iterator[list[PairedStates]]:
    samples: list[PairedStates] = []
    for sample in store:
        samples.append(sample)
        if len(samples) == size:
            yield samples
            samples = []
    if samples:
        yield samples


_Part = tuple[np.ndarray | None, np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]
"""Cosines, hits, ranks (positions end to end), lengths, runs."""


def _judged(samples: Sequence[PairedStates], candidate: Candidate, store: Store, depth: int) -> _Part:
    lengths = [min(len(s.target_states), len(s.draft_states)) for s in samples]
    given, mask = _padded(samples, lengths, candidate)
    adapted = _adapted(candidate, given, mask)[mask]
    target = torch.cat([s.target_states[:n].float() for s, n in zip(samples, lengths, strict=True)])
    tokens = torch.cat([_tokens(s, n, candidate) for s, n in zip(samples, lengths, strict=True)])
    ranks, hits = _ranks(adapted, tokens, candidate.head)
    cosines = None
    if adapted.shape[1] == target.shape[1]:
        cosines = F.cosine_similarity(adapted, target, dim=-1).double().numpy()
    runs: list[np.ndarray] = []
    if candidate.void is None and store.identity.mode == "teacher-forced":
        own = np.split(hits, np.cumsum(lengths)[:-1])
        if _reads_target(candidate):
            runs = [_unrolled(candidate, s, h, depth) for s, h in zip(samples, own, strict=True)]
        else:
            runs = [_leading(h) for h in own]
    return cosines, hits, ranks, np.array(lengths), runs


def _reads_target(candidate: Candidate) -> bool:
    return candidate.adapter is not None and TARGET in candidate.adapter.inputs


def _tokens(sample: PairedStates, length: int, candidate: Candidate) -> Tensor:
    if sample.target_tokens is not None:
        return sample.target_tokens[:length]
    if candidate.adapter is None:
        raise DataError(
            f"sample '{sample.id}' has no tokens (imported from texts), so the event model's own cannot be judged"
        )
    return (sample.target_states[:length].float() @ candidate.head.float().T).argmax(-1)


def _padded(
    samples: Sequence[PairedStates], lengths: Sequence[int], candidate: Candidate
) -> tuple[dict[str, Tensor], Tensor]:
    """What the candidate reads, each (B, K, D) float32, and where it is no padding (B, K)."""
    pairs = list(zip(samples, lengths, strict=True))
    inputs = {DRAFT} if candidate.adapter is None else candidate.adapter.inputs
    rows: dict[str, list[Tensor]] = {}
    if DRAFT in inputs:
        rows[DRAFT] = [s.draft_states[:n].float() for s, n in pairs]
    if TARGET in inputs:
        rows[TARGET] = [s.target_states[:n].float() for s, n in pairs]
    if TOKENS in inputs:
        assert candidate.embeddings is not None
        rows[TOKENS] = [candidate.embeddings[_tokens(s, n, candidate)].float() for s, n in pairs]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return {name: pad_sequence(values, batch_first=True) for name, values in rows.items()}, mask


def _adapted(candidate: Candidate, given: dict[str, Tensor], mask: Tensor) -> Float[Tensor, "B K D"]:
    """Every output as drafting has it, or, for a ``whole`` candidate, from the whole answer at once."""
    adapter = candidate.adapter
    if adapter is None:
        return given[DRAFT]
    if adapter.causal or candidate.whole:
        return _run(adapter, given, mask)
    # output t of a level that looks ahead, from positions 0..t alone: one prefix for each position
    longest = mask.shape[1]
    prefixes = torch.ones(longest, longest, dtype=torch.bool).tril()
    at = torch.arange(longest)
    rows = []
    for number in range(len(mask)):
        repeated = {name: values[number].expand(longest, *values.shape[1:]) for name, values in given.items()}
        rows.append(_run(adapter, repeated, prefixes)[at, at])
    return torch.stack(rows)


def _run(adapter: Adapter, given: dict[str, Tensor], mask: Tensor) -> Tensor:
    others = {name: values for name, values in given.items() if name != DRAFT}
    return adapter(given.get(DRAFT), mask=mask, **others)


def _ranks(adapted: Tensor, tokens: Tensor, head: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens are scored above the target's, and whether the first choice is the target's."""
    weight = head.float()
    ranks, hits = [], []
    for rows, wanted in zip(adapted.split(_LOGIT_ROWS), tokens.split(_LOGIT_ROWS), strict=True):
        logits = rows @ weight.T
        # an event model may not know a few added tokens of the target
        known = wanted < logits.shape[1]
        own = logits.gather(1, wanted.clamp(max=logits.shape[1] - 1)[:, None])
        above = (logits > own).sum(1)
        ranks.append(torch.where(known, above, logits.shape[1]))
        hits.append((logits.argmax(1) == wanted) & known)
    return torch.cat(ranks).numpy(), torch.cat(hits).numpy()


def _leading(hits: np.ndarray) -> Int[np.ndarray, "K"]:
    """For each position the number of hits from there on, before the next miss."""
    at = np.arange(len(hits))
    next_miss = np.minimum.accumulate(np.where(hits, len(hits), at)[::-1])[::-1]
    return next_miss - at


def _unrolled(candidate: Candidate, sample: PairedStates, hits: np.ndarray, depth: int) -> Int[np.ndarray, "K"]:
    """As ``_leading`` for an adapter that reads the target's states, of which a draft has only the verified ones.

    Draft p stands behind p verified tokens: it reads the target's states 0..p-1 and, from there on, its own.
    """
    adapter, count = candidate.adapter, len(hits)
    assert adapter is not None
    given, _ = _padded([sample], [count], candidate)
    tokens = _tokens(sample, count, candidate)
    runs, alive, at = np.zeros(count, dtype=np.int64), np.arange(count), np.arange(count)
    # (drafts, K, D): what each draft takes for the target's states
    known = given[TARGET].expand(count, *given[TARGET].shape[1:]).clone()
    for step in range(depth):
        alive = alive[at[alive] < count]
        if not len(alive):
            break
        upto = int(at[alive].max()) + 1
        rows = {name: values.expand(len(alive), -1, -1)[:, :upto] for name, values in given.items()}
        rows[TARGET] = known[alive, :upto]
        place = at[alive]
        out = _run(adapter, rows, torch.arange(upto) <= torch.from_numpy(place)[:, None])
        guess = out[torch.arange(len(alive)), torch.from_numpy(place)]
        right = hits[alive] if step == 0 else _ranks(guess, tokens[place], candidate.head)[1]
        known[alive, place] = guess
        alive = alive[right]
        runs[alive] += 1
        at[alive] += 1
    return runs
