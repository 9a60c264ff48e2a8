"""The target's side of every pair: what it answers and thinks, run now or read from a store that has it already."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from crossdraft.core.errors import CrossdraftError, DataError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, Drafter, DraftSession, Needs, Rule, Window
from crossdraft.core.types import LAST, Limits, Step
from crossdraft.data.store import Store
from crossdraft.decode.loop import generate
from crossdraft.decode.wrapped import WrappedSession
from crossdraft.extraction.jobs import Job


@dataclass(frozen=True, eq=False)
class Answer:
    """What was said and thought. states: {layer: (K, D)}, row t predicted token t; top: log-probabilities kept."""

    tokens: list[int]
    states: dict[int, Tensor]
    text: str
    top: dict[str, Tensor] = field(default_factory=dict)


class Answers(Protocol):
    """The target as an extraction needs it: a name, widths, and its answer to a job."""

    @property
    def name(self) -> str:
        """Of the target."""
        ...

    @property
    def hidden_size(self) -> int:
        """Width of its states."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of its tokens."""
        ...

    def answer(self, job: Job, prompt: Prompt) -> Answer:
        """To the job's question about its clip. Raises DataError when there is none."""
        ...


@dataclass(frozen=True)
class Running:
    """The target itself, losslessly drafted. drafter: any; it changes the time alone."""

    target: VLM
    drafter: Drafter
    rule: Rule
    max_new_tokens: int
    tapped: tuple[int, ...] = ()
    top_k: int = 0

    @property
    def name(self) -> str:
        """Of the target."""
        return self.target.name

    @property
    def hidden_size(self) -> int:
        """Width of its states."""
        return self.target.hidden_size

    @property
    def vocab_size(self) -> int:
        """Number of its tokens."""
        return self.target.vocab_size

    def answer(self, job: Job, prompt: Prompt) -> Answer:
        """In its own words. Raises DataError when it cannot watch the prompt."""
        said = written(self.target, self.drafter, prompt, self.rule, self.max_new_tokens, (LAST, *self.tapped))
        return replace(said, top=self._top(said.states[LAST]))

    def _top(self, states: Tensor) -> dict[str, Tensor]:
        if not self.top_k:
            return {}
        values, ids = self.target.unembed(states).float().log_softmax(-1).topk(self.top_k, -1)
        return {"top_ids": ids.to(torch.int32), "top_log_probs": values}


@dataclass(frozen=True)
class Kept:
    """The answers of a store; the target is not run."""

    store: Store
    name: str
    hidden_size: int
    vocab_size: int

    @classmethod
    def of(cls, store: Store) -> "Kept":
        """DataError for a store that keeps no tokens or does not say which target answered."""
        identity = store.identity
        if not (identity.answers_hash and identity.has_tokens and identity.vocab_size):
            raise DataError(
                f"{store.root}: does not say which target answered, with which settings (imported, or of an older "
                "version); extract it again"
            )
        return cls(store, identity.target, identity.target_width, identity.vocab_size)

    def check(self, wanted: Mapping[str, Any], jobs: Sequence[Job]) -> None:
        """DataError unless the store's identity has the values ``wanted``, and its answers are to ``jobs``.

        A job that it lacks is no fault, as long as it has one of them.
        """
        root, identity = self.store.root, self.store.identity
        for name, value in wanted.items():
            if (has := getattr(identity, name)) != value:
                what = (
                    "another checkpoint, dtype or max_new_tokens" if name == "answers_hash" else f"{name} {has!r}"
                )
                asked = "" if name == "answers_hash" else f", {value!r} is asked for"
                raise DataError(
                    f"{root}: holds answers of {what}{asked}; name the target and settings it was made with"
                )
        shared = [job for job in jobs if job.id in self.store]
        if jobs and not shared:
            raise DataError(
                f"{root}: has no answer to any of the {len(jobs)} clips and questions; give their store"
            )
        for job in shared:
            entry = self.store.entries[self.store.place(job.id)]
            if (entry.recording, entry.clip_index, entry.question) != (job.recording, job.clip_index, job.question):
                raise DataError(
                    f"{root}: its sample '{job.id}' is of another clip or question; give the store of this data "
                    "set and these questions"
                )

    def answer(self, job: Job, prompt: Prompt) -> Answer:
        """As the store has it. DataError for a job that it does not have, CrossdraftError when it is damaged."""
        if job.id not in self.store:
            failed = self.store.failures.get(job.id)
            why = f"it failed there: {failed.reason}" if failed is not None else "extract it there first"
            raise DataError(f"{self.store.root}: has no answer for '{job.id}' ({why})")
        try:
            sample = self.store[job.id]
        except DataError as error:
            # the store's fault, not this clip's: it must not be recorded as if the clip had failed
            raise CrossdraftError(str(error)) from error
        assert sample.target_tokens is not None
        top = {"top_ids": sample.top_ids, "top_log_probs": sample.top_log_probs}
        return Answer(
            sample.target_tokens.tolist(),
            {LAST: sample.target_states, **sample.tapped},
            sample.target_text,
            {name: values for name, values in top.items() if values is not None},
        )


def written(
    model: VLM, drafter: Drafter, prompt: Prompt, rule: Rule, max_new_tokens: int, layers: tuple[int, ...]
) -> Answer:
    """An answer in the model's own words with the states of ``layers``."""
    recorder = Recorder(drafter, layers)
    limits = Limits(max_new_tokens=max_new_tokens, eos_token_ids=tuple(model.eos_token_ids))
    answer = generate(model, recorder, prompt, rule=rule, limits=limits)
    return Answer(answer.tokens, recorder.states(), answer.text)


@dataclass
class Recorder:
    """A drafter that keeps the states of every step; ``inner`` drafts. One request at a time."""

    inner: Drafter
    layers: tuple[int, ...]
    steps: list[Step] = field(default_factory=list)
    name: str = field(init=False)
    needs: Needs = field(init=False)

    def __post_init__(self) -> None:
        self.name, needs = self.inner.name, self.inner.needs
        self.needs = replace(needs, capture=tuple(dict.fromkeys((*needs.capture, *self.layers))))

    def begin(self, prompt: Prompt, target: VLM, window: Window) -> DraftSession:
        """The inner drafter's session, listened to; what an earlier request left is forgotten."""
        self.steps.clear()
        return _Listening(self.inner.begin(prompt, target, window), self.steps)

    def states(self) -> dict[int, Tensor]:
        """{layer: (K, D)}: row t predicted token t of the answer."""
        return {layer: torch.cat([step.states[layer] for step in self.steps]) for layer in self.layers}


class _Listening(WrappedSession):
    def __init__(self, inner: DraftSession, steps: list[Step]) -> None:
        super().__init__(inner)
        self.steps = steps

    def observe(self, step: Step) -> None:
        """Keep the step, and hand it on."""
        self.steps.append(step)
        super().observe(step)
