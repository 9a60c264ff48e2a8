"""States of both models over one answer, and the run over many.

The target answers in its own words, losslessly drafted, and its states are kept as they pass (or are read from a
store that has them). The event model then reads the same tokens (``teacher-forced``) or writes its own
(``free-running``, as the study did that this project grew from: two different texts, so position t of one has
nothing to do with position t of the other). In a control it does so over another clip's events.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, Drafter, Rule
from crossdraft.core.types import LAST
from crossdraft.data.store import DType, Failure, Mode, PairedStates, StoreIdentity, StoreWriter, config_hash
from crossdraft.decode.forced import forced
from crossdraft.extraction.answers import Answer, Answers, written
from crossdraft.extraction.jobs import Job

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """What is kept. tapped: further target layers; top_k: target log-probabilities at each position.

    shuffled: a control: the event model sees another clip's events (the jobs say which: ``jobs.shuffled``).
    """

    mode: Mode = "teacher-forced"
    dtype: DType = "bf16"
    tapped: tuple[int, ...] = ()
    top_k: int = 0
    max_new_tokens: int = 128
    shuffled: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise SettingError(f"max_new_tokens is {self.max_new_tokens}, must be 1 or more")

    def answers_hash(self, target: str, source: Any, rule: str) -> str:
        """Of all that decides a target's answers and what is kept of them. source: what the target is."""
        return config_hash(
            {
                "target": target, "source": source, "rule": rule, "tapped": list(self.tapped), "top_k": self.top_k,
                "max_new_tokens": self.max_new_tokens,
            }
        )  # fmt: skip


@dataclass(frozen=True)
class Extractor:
    """The target's answers and the event model that reads them.

    own_drafter: drafts for the event model when it writes freely (a memory must not be shared between two models);
    it changes the time alone. rule: greedy, unless the study is of sampled answers. sources: what "target" and
    "event_model" are; it goes into the hashes that tell stores of different extractions apart.
    """

    answers: Answers
    event_model: VLM
    own_drafter: Drafter
    rule: Rule
    config: ExtractConfig
    sources: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> StoreIdentity:
        """Of the store that these settings fill. SettingError when top_k is more than the vocabulary."""
        config, answers = self.config, self.answers
        if not 0 <= config.top_k <= answers.vocab_size:
            raise SettingError(
                f"top_k is {config.top_k}, must be from 0 to {answers.vocab_size}, the target's vocabulary"
            )
        answered = config.answers_hash(answers.name, self.sources.get("target"), self.rule.name)
        control: dict[str, Any] = {"control": "shuffled"} if config.shuffled else {}
        read = {
            "answers": answered, "event_model": self.event_model.name, "source": self.sources.get("event_model"),
            "mode": config.mode, **control,
        }  # fmt: skip
        return StoreIdentity(
            target=answers.name, event_model=self.event_model.name, target_width=answers.hidden_size,
            draft_width=self.event_model.hidden_size, vocab_size=answers.vocab_size, mode=config.mode,
            dtype=config.dtype, config_hash=config_hash(read), tapped=config.tapped, top_k=config.top_k,
            answers_hash=answered, **control,
        )  # fmt: skip

    @torch.inference_mode()
    def states_of(self, job: Job) -> PairedStates:
        """Both models' states for one job. Raises DataError when its files cannot be used, SettingError unless the
        job is shuffled exactly if a control is made."""
        if self.config.shuffled != (job.other is not None):
            raise SettingError(
                f"job '{job.id}' and the settings differ on whether events are shuffled; use shuffled()"
            )
        prompt = job.load()
        if self.config.shuffled:
            self._check_looks_at_events(prompt)
        said = self.answers.answer(job, prompt)
        shown = job.seen(prompt)
        if self.config.mode == "teacher-forced":
            rows = forced(self.event_model, self.event_model.encode(shown), said.tokens, (LAST,))
            own = Answer(said.tokens, {LAST: torch.cat([scores.states[LAST] for scores in rows])}, said.text)
        else:
            own = written(self.event_model, self.own_drafter, shown, self.rule, self.config.max_new_tokens, (LAST,))
        return PairedStates(
            id=job.id, recording=job.recording, clip_index=job.clip_index, question=job.question,
            target_states=said.states[LAST], draft_states=own.states[LAST],
            target_tokens=torch.tensor(said.tokens), draft_tokens=torch.tensor(own.tokens),
            tapped={layer: said.states[layer] for layer in self.config.tapped},
            target_text=said.text, draft_text=own.text, **said.top,
        )  # fmt: skip

    def _check_looks_at_events(self, prompt: Prompt) -> None:
        """SettingError for a model to which other events are no other prompt: its control would be the original."""
        try:
            self.event_model.encode(replace(prompt, events=None))
        except DataError:
            return
        raise SettingError(
            f"'{self.event_model.name}' does not look at events, so shuffling them controls nothing; give an event "
            "model with --event-model"
        )


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
    commit_s: float = 60.0,
) -> Extracted:
    """Run over the jobs that the store does not have yet; a job that cannot be done is recorded with its reason.

    Stop it at any moment: the next run goes on behind the last sample that the store acknowledged, which is what
    was done when the run was interrupted, or up to ``commit_s`` seconds before it was killed. Jobs are taken in
    their order, so that a stream's memory drafts for its next clip. Raises what the store raises when it cannot be
    written; whatever else a job raises is a bug and ends the run.
    """
    listed = {job.id: job for job in jobs}
    todo = writer.remaining(listed, retry_failed=retry_failed)
    done = failed = tokens = 0
    committed = time.monotonic()
    try:
        for number, name in enumerate(todo):
            job = listed[name]
            report(f"{job.recording} {job.clip_index}", number, len(todo))
            try:
                sample = extractor.states_of(job)
                done += len(writer.put(sample))
                tokens += len(sample.target_states)
            except DataError as error:
                failed += 1
                writer.fail(_failure(job, str(error)))
            if time.monotonic() - committed >= commit_s:
                done += len(writer.commit())
                committed = time.monotonic()
    finally:
        # also when the run is interrupted: what was done is whole
        done += len(writer.commit())
    return Extracted(done, failed, tokens)


def _failure(job: Job, reason: str) -> Failure:
    return Failure(
        id=job.id, recording=job.recording, clip_index=job.clip_index, question=job.question, reason=reason
    )
