"""States of both models over one answer, and the run over many.

The target answers in its own words, losslessly drafted, and its states are kept as they pass. The event model then
reads the same tokens (``teacher-forced``) or writes its own (``free-running``, as the study did that this project
grew from: two different texts, so position t of one has nothing to do with position t of the other).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, Drafter, DraftSession, Needs, Rule, Window
from crossdraft.core.types import LAST, Limits, Step
from crossdraft.data.store import DType, Failure, Mode, PairedStates, StoreIdentity, StoreWriter, config_hash
from crossdraft.decode.forced import forced
from crossdraft.decode.loop import generate
from crossdraft.decode.wrapped import WrappedSession
from crossdraft.extraction.jobs import Job

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """What is kept. tapped: further target layers; top_k: target log-probabilities at each position."""

    mode: Mode = "teacher-forced"
    dtype: DType = "bf16"
    tapped: tuple[int, ...] = ()
    top_k: int = 0
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise SettingError(f"max_new_tokens is {self.max_new_tokens}, must be 1 or more")


@dataclass(frozen=True)
class Extractor:
    """The two models with what they answer by. drafter: any lossless one; it changes the time alone.

    own_drafter: makes the event model's drafter when it writes freely (a memory must not be shared between two
    models); rule: greedy, unless the study is of sampled answers. sources: where the two models came from; it goes
    into the hash that tells stores of different extractions apart.
    """

    target: VLM
    event_model: VLM
    drafter: Drafter
    own_drafter: Drafter
    rule: Rule
    config: ExtractConfig
    sources: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> StoreIdentity:
        """Of the store that these settings fill. SettingError when top_k is more than the vocabulary."""
        config = self.config
        if not 0 <= config.top_k <= self.target.vocab_size:
            raise SettingError(
                f"top_k is {config.top_k}, must be from 0 to {self.target.vocab_size}, the target's vocabulary"
            )
        settings = {
            "target": self.target.name, "event_model": self.event_model.name, "rule": self.rule.name,
            "mode": config.mode, "tapped": list(config.tapped), "top_k": config.top_k,
            "max_new_tokens": config.max_new_tokens, "sources": dict(self.sources),
        }  # fmt: skip
        return StoreIdentity(
            target=self.target.name, event_model=self.event_model.name, target_width=self.target.hidden_size,
            draft_width=self.event_model.hidden_size, vocab_size=self.target.vocab_size, mode=config.mode,
            dtype=config.dtype, config_hash=config_hash(settings), tapped=config.tapped, top_k=config.top_k,
        )  # fmt: skip

    @torch.inference_mode()
    def states_of(self, job: Job) -> PairedStates:
        """Both models' states for one job. Raises DataError when its files cannot be used."""
        prompt = job.load()
        tokens, states, text = _written(
            self.target, self.drafter, prompt, self.rule, self.config, (LAST, *self.config.tapped)
        )
        if self.config.mode == "teacher-forced":
            own_tokens, own_text = tokens, text
            rows = forced(self.event_model, self.event_model.encode(prompt), tokens, (LAST,))
            own = torch.cat([scores.states[LAST] for scores in rows])
        else:
            own_tokens, own_states, own_text = _written(
                self.event_model, self.own_drafter, prompt, self.rule, self.config, (LAST,)
            )
            own = own_states[LAST]
        top = _top(self.target, states[LAST], self.config.top_k)
        return PairedStates(
            id=job.id, recording=job.recording, clip_index=job.clip_index, question=job.question,
            target_states=states[LAST], draft_states=own, target_tokens=torch.tensor(tokens),
            draft_tokens=torch.tensor(own_tokens), tapped={layer: states[layer] for layer in self.config.tapped},
            target_text=text, draft_text=own_text, **top,
        )  # fmt: skip


def _written(
    model: VLM, drafter: Drafter, prompt: Prompt, rule: Rule, config: ExtractConfig, layers: tuple[int, ...]
) -> tuple[list[int], dict[int, Tensor], str]:
    """An answer in the model's own words, {layer: (K, D)} of the states that predicted its tokens, and its text."""
    recorder = Recorder(drafter, layers)
    limits = Limits(max_new_tokens=config.max_new_tokens, eos_token_ids=tuple(model.eos_token_ids))
    answer = generate(model, recorder, prompt, rule=rule, limits=limits)
    return answer.tokens, recorder.states(), answer.text


def _top(target: VLM, states: Tensor, count: int) -> dict[str, Tensor]:
    if not count:
        return {}
    values, ids = target.unembed(states).float().log_softmax(-1).topk(count, -1)
    return {"top_ids": ids.to(torch.int32), "top_log_probs": values}


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


@dataclass(frozen=True)
class Extracted:
    """What a run did. done: samples acknowledged by the store; failed: recorded with their reasons."""

    done: int
    failed: int
    tokens: int


def extract(
    extractor: Extractor,
    jobs: Iterable[Job],
    writer: StoreWriter,
    *,
    retry_failed: bool = False,
    report: Report = lambda what, done, total: None,
) -> Extracted:
    """Run over the jobs that the store does not have yet; a job that cannot be done is recorded with its reason.

    Stop it at any moment: the next run goes on behind the last sample that the store acknowledged. Jobs are taken
    in their order, so that a stream's memory drafts for its next clip. Raises what the store raises when it cannot
    be written; whatever else a job raises is a bug and ends the run.
    """
    listed = {job.id: job for job in jobs}
    todo = writer.remaining(listed, retry_failed=retry_failed)
    done = failed = tokens = 0
    for number, name in enumerate(todo):
        job = listed[name]
        report(f"{job.recording} {job.clip_index}", number, len(todo))
        try:
            sample = extractor.states_of(job)
            done += len(writer.put(sample))
            tokens += len(sample.target_states)
        except DataError as error:
            failed += 1
            writer.fail(
                Failure(
                    id=job.id, recording=job.recording, clip_index=job.clip_index, question=job.question,
                    reason=str(error),
                )
            )  # fmt: skip
    done += len(writer.commit())
    return Extracted(done, failed, tokens)
