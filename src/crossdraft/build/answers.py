"""Requests with everything that decides the answer, and the answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from crossdraft.bench.profile import LatencyProfile
from crossdraft.bench.verdict import rounds_of
from crossdraft.bench.workbench import Report, Workbench, silent
from crossdraft.build import heads
from crossdraft.build.costs import costs_for
from crossdraft.build.drafters import make_drafter
from crossdraft.build.load import device_of
from crossdraft.build.pairs import Pair, default_drafter
from crossdraft.build.prompts import make_prompt
from crossdraft.build.vocabulary import check_vocabulary
from crossdraft.core.clock import Clock
from crossdraft.core.errors import SettingError
from crossdraft.core.prompt import EventStream, Prompt, VideoFrames
from crossdraft.core.protocols import VLM, CostCurve, Drafter, Rule
from crossdraft.core.provenance import provenance
from crossdraft.core.records import write_record
from crossdraft.core.types import Generation, Limits, Sampling
from crossdraft.decode.audit import AuditReport, audit
from crossdraft.decode.loop import generate as run_loop
from crossdraft.decode.window import WindowPlan, choose
from crossdraft.drafters.memory import StreamMemory
from crossdraft.verify import rule_for


@dataclass(frozen=True)
class Request:
    """One prompt for one target with everything that decides the answer; drafters change only how long it takes."""

    target: VLM
    prompt: Prompt
    rule: Rule
    limits: Limits
    window: WindowPlan

    def answer(
        self,
        drafter: Drafter,
        on_tokens: Callable[[tuple[int, ...]], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Generation:
        """Answer with the help of ``drafter``. Raises what the models raise."""
        return run_loop(
            self.target, drafter, self.prompt, rule=self.rule, limits=self.limits, window=self.window,
            clock=_clock(self.target), on_tokens=on_tokens, cancel=cancel,
        )  # fmt: skip

    def warm_up(self) -> None:
        """A short plain answer that nobody times: the first run pays for pages and kernels that later ones find."""
        short = replace(self.limits, max_new_tokens=min(8, self.limits.max_new_tokens))
        replace(self, limits=short, window=choose("off")).answer(make_drafter("none", target=self.target))

    def audit(self, answer: Generation) -> AuditReport:
        """Re-score a greedy ``answer`` through fresh passes. SettingError for a sampled one."""
        if self.rule.name != "greedy":
            raise SettingError(
                "an audit re-scores greedy answers; a sampled one is meant to differ from the argmax"
            )
        return audit(self.target, self.prompt, answer)


def make_request(
    target: VLM,
    prompt: Prompt,
    *,
    sampling: Sampling,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    window: str = "auto",
    costs: LatencyProfile | None = None,
) -> Request:
    """Settle rule, limits and window. SettingError for settings that cannot work."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    limits = Limits(max_new_tokens=max_new_tokens, eos_token_ids=tuple(target.eos_token_ids), stop=stops)
    return Request(target, prompt, rule_for(sampling), limits, choose(window, costs))


def generate(
    target: VLM,
    question: str,
    *,
    video: str | Path | VideoFrames | None = None,
    image: str | Path | None = None,
    events: str | Path | EventStream | None = None,
    sensor: str | tuple[int, int] | None = None,
    event_offset_us: int | None = None,
    event_model: VLM | None = None,
    drafter: str | Drafter = "auto",
    memory: StreamMemory | None = None,
    adapter: str | Path | None = None,
    head: str | Path | None = None,
    stream_id: str | None = None,
    history: Sequence[tuple[str, str]] = (),
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    window: str = "auto",
    on_tokens: Callable[[tuple[int, ...]], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Generation:
    """The target's own answer to ``question``, token for token, with the help of a drafter.

    drafter: a name of ``crossdraft list``, or one made by ``make_drafter``, which keeps what it learned.
    "auto": cross_modal with an ``adapter``, a ``head``'s own drafter, memory where a ``stream_id`` is given, else
    prompt lookup. memory: of the streams, see ``open_memory``. adapter, head: see ``make_drafter``.
    The first call measures the pair's passes (a second or so for small models) and keeps that on disk.
    Raises DataError, SettingError; see ``make_prompt`` for the other arguments.
    """
    prompt = make_prompt(
        question, video=video, image=image, events=events, sensor=sensor, event_offset_us=event_offset_us,
        stream_id=stream_id, history=history,
    )  # fmt: skip
    if isinstance(target, str | Path):
        raise SettingError(f"target is '{target}', must be a loaded model; load it: crossdraft.load_target(...)")
    if not isinstance(drafter, str) and not hasattr(drafter, "begin"):
        raise SettingError(f"drafter is {drafter!r:.40}, must be a name or what make_drafter gave")
    if memory is not None and not isinstance(memory, StreamMemory):
        raise SettingError(f"memory is {memory!r:.40}, must be a StreamMemory; read one with open_memory(path)")
    if event_model is not None:
        check_vocabulary(target, event_model)
    costs = costs_for(Pair(target, event_model), prompt)
    if isinstance(drafter, str):
        chosen = default_drafter(prompt) if head is None else heads.drafter_of(head)
        chosen = chosen if adapter is None else "cross_modal"
        drafter = make_drafter(
            chosen if drafter == "auto" else drafter, target=target, event_model=event_model, memory=memory,
            adapter=adapter, head=head, costs=costs,
        )  # fmt: skip
    if drafter.needs.events and prompt.events is None:
        raise SettingError(f"drafter '{drafter.name}' needs an event recording; give one as events")
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    request = make_request(
        target, prompt, sampling=sampling, max_new_tokens=max_new_tokens, stop=stop, window=window, costs=costs
    )
    return request.answer(drafter, on_tokens, cancel)


def save_generation(path: str | Path, answer: Generation, settings: dict[str, Any]) -> Path:
    """Save an answer with its rounds, ``settings`` and provenance as a record. CrossdraftError if it cannot be."""
    return write_record(path, "generation", {**settings, "rounds": rounds_of(answer), "provenance": provenance()})


def _clock(target: VLM) -> Clock:
    return Clock(sync=torch.cuda.synchronize if device_of(target).startswith("cuda") else None)


def workbench(
    pair: Pair, prompt: Prompt, *, window: str = "auto", refresh: bool = False, report: Report = silent
) -> Workbench:
    """The pair, ready to be measured; its costs are measured first where no earlier run kept them, or refresh."""
    costs = costs_for(pair, prompt, refresh=refresh, report=report)

    def new_drafter(name: str, curve: CostCurve | None = None) -> Drafter:
        return make_drafter(name, target=pair.target, event_model=pair.event_model, costs=curve or costs)

    def new_rule(temperature: float, seed: int) -> Rule:
        return rule_for(Sampling(temperature=temperature, seed=seed))

    return Workbench(pair.target, pair.event_model, new_drafter, new_rule, costs, choose(window, costs))
