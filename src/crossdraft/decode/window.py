"""The window: the time in which the target still encodes and prefills, and what a drafter may do in it.

Modes: ``off`` (the drafter begins after the target's first token), ``sequential`` (before the target),
``overlapped`` (beside it, on the same device: threads on a CPU, streams on a GPU), ``own-device`` (beside it, on
another device), ``auto`` (chosen by measured times). Whatever is chosen, the time reported is the wall clock that
passed.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch

from crossdraft.core.clock import Clock
from crossdraft.core.errors import SettingError
from crossdraft.core.protocols import DraftSession, Window

MODES = ("off", "sequential", "overlapped", "own-device", "auto")

# a smaller share of time saved is within the noise, and no reason to start a thread
MIN_GAIN = 0.05

T = TypeVar("T")


class WindowTimes(Protocol):
    """Measured milliseconds of a pair on this machine; the event model's are None without one."""

    @property
    def target_encode_ms(self) -> float:
        """The target's preprocessing and vision tower."""
        ...

    @property
    def target_prefill_ms(self) -> float:
        """The target's prefill."""
        ...

    @property
    def event_encode_ms(self) -> float | None:
        """The event model's preprocessing and vision tower."""
        ...

    @property
    def event_prefill_ms(self) -> float | None:
        """The event model's prefill."""
        ...

    @property
    def device(self) -> str:
        """The target's device."""
        ...

    @property
    def own_device(self) -> bool:
        """Whether the event model has a device of its own."""
        ...


@dataclass(frozen=True)
class WindowPlan:
    """A mode and the reason for it, for the record."""

    mode: str
    why: str

    def __post_init__(self) -> None:
        if self.mode not in MODES or self.mode == "auto":
            raise SettingError(f"unknown window '{self.mode}'; choose one of {', '.join(MODES)}")


def choose(mode: str = "auto", times: WindowTimes | None = None) -> WindowPlan:
    """The plan for ``mode``; "auto" compares what each mode would take until both models have prefilled.

    ``off`` and ``sequential`` take the sum; the first token comes sooner with ``off``, so that is preferred. A
    device of its own takes the longer of the two. ``overlapped`` on a CPU only shares the cores out, which no
    arithmetic can make a gain: it is chosen if ``times.overlapped_ms`` was measured and wins. On a GPU, streams
    fill what a prefill leaves idle, so it is chosen unless it was measured to lose.
    Raises SettingError for an unknown mode.
    """
    if mode != "auto":
        return WindowPlan(mode, "asked for")
    if times is None:
        return WindowPlan("off", "auto: no measured times were given")
    if times.event_prefill_ms is None:
        return WindowPlan("off", "auto: no event model was measured")
    target = times.target_encode_ms + times.target_prefill_ms
    event = (times.event_encode_ms or 0.0) + times.event_prefill_ms
    both = target + event
    if times.own_device:
        return WindowPlan(
            "own-device", f"auto: {max(target, event):.0f} ms side by side, {both:.0f} ms one after another"
        )
    shared: float | None = getattr(times, "overlapped_ms", None)
    if shared is not None:
        mode = "overlapped" if shared < both * (1 - MIN_GAIN) else "off"
        return WindowPlan(mode, f"auto: {shared:.0f} ms overlapped, {both:.0f} ms one after another")
    if times.device.startswith("cuda"):
        return WindowPlan("overlapped", f"auto: streams share the device; {both:.0f} ms one after another")
    return WindowPlan("off", f"auto: sharing a CPU's cores gains nothing; {both:.0f} ms one after another")


class TimedWindow:
    """Open until someone closes it; safe to read from another thread."""

    def __init__(self, is_open: bool = True) -> None:
        self._closed = threading.Event()
        if not is_open:
            self._closed.set()

    @property
    def is_open(self) -> bool:
        """Whether the target is still busy."""
        return not self._closed.is_set()

    def close(self) -> None:
        """The target has its first token."""
        self._closed.set()


class CountedWindow:
    """Open for a fixed number of looks: a window for tests and replays, which does not depend on a clock."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    @property
    def is_open(self) -> bool:
        """True for the first ``looks`` times that it is asked."""
        self.looks -= 1
        return self.looks >= 0


@dataclass
class _Aside:
    """A function running in a thread of its own, on a stream of its own where there is CUDA."""

    run: Callable[[], DraftSession]
    result: DraftSession | None = None
    error: BaseException | None = None
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._main, name="crossdraft-window", daemon=True)
        self._stream = torch.cuda.Stream() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())
        self._thread.start()

    def _main(self) -> None:
        try:
            # inference mode and the current stream belong to a thread, not to the process
            with torch.inference_mode():
                if self._stream is None:
                    self.result = self.run()
                else:
                    with torch.cuda.stream(self._stream):
                        self.result = self.run()
                    self._stream.synchronize()
        except BaseException as error:  # handed to the caller by join()
            self.error = error

    def join(self) -> DraftSession:
        self._thread.join()
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


def run_together(
    mode: str, begin: Callable[[Window], DraftSession], prefill: Callable[[], T], clock: Clock
) -> tuple[T, Callable[[], DraftSession], dict[str, float]]:
    """Run the target's ``prefill`` with the drafter's ``begin`` where ``mode`` puts it.

    Returns the prefill's result, a function that gives the draft session (which for ``off`` only then begins), and
    a dictionary of milliseconds, which that function may still add to. Errors of either side are raised here, in
    the caller's thread; the window is closed and the other thread has ended by then.
    """
    spans: dict[str, float] = {}

    def begin_now(window: TimedWindow) -> DraftSession:
        start = clock.now_ms()
        guess = begin(window)
        end = clock.now_ms()
        spans["begin_ms"] = end - start
        clock.note("begin", start, end)
        return guess

    if mode == "off":
        return prefill(), lambda: begin_now(TimedWindow(is_open=False)), spans
    if mode == "sequential":
        # nothing hides behind anything here, so the window is closed: no running ahead
        early = begin_now(TimedWindow(is_open=False))
        return prefill(), lambda: early, spans
    window = TimedWindow()
    # thread counts stay as they are: another count could round the target's prefill otherwise than plain decoding's
    aside = _Aside(lambda: begin_now(window))
    try:
        ready = prefill()
    except BaseException:
        window.close()
        aside._thread.join()
        raise
    else:
        window.close()
        start = clock.now_ms()
        guess = aside.join()
        spans["waited_ms"] = clock.now_ms() - start
    return ready, lambda: guess, spans
