"""The one decoding loop. It knows no model, no drafter and no rule by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from crossdraft.core.clock import Clock
from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, Drafter, DraftSession, Rule, SeesPrompt, SharesCache, VLMSession
from crossdraft.core.types import Draft, FinishReason, Generation, Limits, Round, Scores, Step, Verdict
from crossdraft.decode.stream import TextStream
from crossdraft.decode.window import WindowPlan, choose, run_together

NOTHING = Draft.chain([])

# a tree may hold more nodes than the answer has tokens left; cache positions kept for it
TREE_ROOM = 128

OnTokens = Callable[[tuple[int, ...]], None]


@torch.inference_mode()
def generate(
    target: VLM,
    drafter: Drafter,
    prompt: Prompt,
    *,
    rule: Rule,
    limits: Limits,
    window: str | WindowPlan = "off",
    clock: Clock | None = None,
    on_tokens: OnTokens | None = None,
    cancel: Callable[[], bool] | None = None,
    room: int | None = None,
) -> Generation:
    """Answer ``prompt`` with ``target``, in the target's own words, with the help of ``drafter``.

    window: a mode of ``decode.window`` or a plan chosen by measured times; ignored (off) for a drafter that does
    not look at events, which has nothing to run in it.
    on_tokens: called with the ids of every step as soon as they are verified, the end token included.
    cancel: asked before every pass; True ends the answer, and nothing is learned from it.
    room: cache positions behind the prompt; default: what ``limits`` and a tree need.
    Spans (ms): encode, prefill, decode (first token to last) and total, all wall clock. For each round: draft,
    verify, commit. Raises DataError and SettingError as the models, the drafter and the rule do.
    """
    clock = clock or Clock()
    plan = choose(window) if isinstance(window, str) else window
    if not drafter.needs.events:
        plan = WindowPlan("off", f"drafter '{drafter.name}' runs nothing ahead of the target's first token")
    start = clock.now_ms()
    reserved = limits.max_new_tokens + (TREE_ROOM if drafter.needs.trees else 0) if room is None else room

    def prefill() -> VLMSession:
        with clock.span("encode"):
            encoded = target.encode(prompt)
        with clock.span("prefill"):
            return target.prefill(encoded, drafter.needs.capture, reserved)

    clock.take()
    session, begun, window_ms = run_together(plan.mode, lambda w: drafter.begin(prompt, target, w), prefill, clock)
    answer = _Answer(limits, TextStream(target.tokenizer, limits.stop) if limits.stop else None, on_tokens)
    answer.out = Generation(
        lossless=rule.lossless, exactness=target.exactness, spans_ms={"encode": 0.0, "prefill": 0.0, **clock.take()}
    )
    if cancel is not None and cancel():
        answer.end = "cancelled"
    else:
        tokens = _first_token(session, rule, answer, clock)
        first_ms = clock.now_ms()
        # with the window off the drafter begins here: a cost of decoding, not of the first token
        guess = begun()
        _introduce(guess, session, tokens)
        _rounds(session, guess, rule, answer, clock, cancel)
        answer.out.spans_ms["decode"] = clock.now_ms() - first_ms
        if answer.end != "cancelled":
            guess.finish()
    out = answer.finish(target)
    out.spans_ms["total"] = clock.now_ms() - start
    # one clock may time many requests
    out.timeline = [(name, s - start, e - start) for name, s, e in clock.timeline if s >= start]
    out.window = {"mode": plan.mode, "why": plan.why, **window_ms}
    return out


def _first_token(session: VLMSession, rule: Rule, answer: "_Answer", clock: Clock) -> tuple[int, ...]:
    """Judge the prompt's own logits: an empty draft at position 0 gives the first root."""
    with clock.span("first"):
        first = rule(NOTHING, session.first.logits[-1:], 0)
        session.commit((), first.bonus)
        tokens = answer.take((first.bonus,))
    answer.out.spans_ms["prefill"] += clock.take()["first"]
    return tokens


def _introduce(guess: DraftSession, session: VLMSession, tokens: tuple[int, ...]) -> None:
    """Tell a drafter what the prompt was and what the target's first token is."""
    if isinstance(guess, SharesCache):
        guess.share(session)
    if isinstance(guess, SeesPrompt):
        guess.see_prompt(session.prompt)
    states = {layer: rows[-1:] for layer, rows in session.first.states.items()}
    guess.observe(Step(tokens, states, is_prompt=True))


def _rounds(
    session: VLMSession, guess: DraftSession, rule: Rule, answer: "_Answer", clock: Clock,
    cancel: Callable[[], bool] | None,
) -> None:  # fmt: skip
    while answer.end is None:
        if cancel is not None and cancel():
            answer.end = "cancelled"
            return
        said = len(answer.out.tokens)
        room = answer.limits.max_new_tokens - said - 1  # the pass gives one token of its own
        with clock.span("draft"):
            draft = guess.propose(room) if room > 0 else NOTHING
        if len(draft) > room and (draft.is_chain or room <= 0):
            raise SettingError(f"'{draft.source}' drafted {len(draft)} tokens where {room} were left")
        with clock.span("verify"):
            scores = session.score(draft)
            verdict = rule(draft, scores.logits, said)
        with clock.span("commit"):
            session.commit(verdict.path, verdict.bonus)
            tokens = answer.take(_emitted(draft, verdict))
            accepted = min(len(verdict.path), len(tokens))
            guess.observe(Step(tokens, _predicting(scores, verdict, len(tokens)), accepted=accepted))
        levels = None if draft.is_chain else draft.depth
        answer.out.rounds.append(Round(draft.source, len(draft), accepted, len(tokens), clock.take(), levels))


def _emitted(draft: Draft, verdict: Verdict) -> tuple[int, ...]:
    accepted = len(verdict.path)
    if not accepted:
        return (verdict.bonus,)
    if draft.is_chain:
        return (*draft.tokens[:accepted].tolist(), verdict.bonus)
    return (*draft.tokens[list(verdict.path)].tolist(), verdict.bonus)


def _predicting(scores: Scores, verdict: Verdict, count: int) -> dict[int, Tensor]:
    """States of the rows that predicted the first ``count`` tokens of the step: the root's, then each node's."""
    if not scores.states:
        return {}
    rows = torch.tensor([0, *(node + 1 for node in verdict.path)][:count])
    return {layer: states.index_select(0, rows.to(states.device)) for layer, states in scores.states.items()}


@dataclass
class _Answer:
    """The tokens so far, and the one place that knows when there are enough."""

    limits: Limits
    stream: TextStream | None
    on_tokens: OnTokens | None
    out: Generation = field(default_factory=Generation)
    end: FinishReason | None = None

    def take(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Append ``tokens`` up to whatever ends the answer; what was kept."""
        tokens = self._cut(tokens, self.limits.max_new_tokens - len(self.out.tokens))
        self.out.tokens += tokens
        if self.on_tokens is not None:
            self.on_tokens(tokens)
        return tokens

    def _cut(self, tokens: tuple[int, ...], room: int) -> tuple[int, ...]:
        end: FinishReason | None = None
        kept = tokens[:room]
        at = first_end(kept, self.limits.eos_token_ids)
        if at is not None:
            kept, end = kept[: at + 1], "eos"
        if self.stream is not None:
            # the end token itself has no text
            _, used = self.stream.push(kept[:-1] if end == "eos" else kept)
            if self.stream.stopped is not None:
                kept, end = kept[:used], "stop"
        if end is None and len(kept) == room:
            end = "length"
        self.end = end
        return kept

    def finish(self, target: VLM) -> Generation:
        """The generation with its text: without the end token, without the stop string and what follows it."""
        assert self.end is not None
        self.out.finish_reason = self.end
        if self.stream is not None:
            self.stream.finish()
            self.out.text = self.stream.text
        else:
            spoken = self.out.tokens[:-1] if self.end == "eos" else self.out.tokens
            self.out.text = target.tokenizer.decode(spoken)
        return self.out


def first_end(tokens: Sequence[int], ends: Sequence[int]) -> int | None:
    """Index of the first end token among ``tokens``; None if there is none."""
    if not ends:
        return None
    return next((i for i, token in enumerate(tokens) if token in ends), None)
