"""Wall-clock spans in milliseconds; a fake clock for tests."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from crossdraft.core.errors import SettingError


class Clock:
    """Collects named spans. ``sync`` is called at both ends of a span (a device's synchronise; nothing on CPU).

    trace: also keep when each span began and ended, in ``timeline``: (name, start, end) in ms on this clock.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.perf_counter,
        sync: Callable[[], None] | None = None,
        *,
        trace: bool = False,
    ) -> None:
        self._now, self._sync, self._trace = now, sync, trace
        self._spans: dict[str, float] = {}
        self.timeline: list[tuple[str, float, float]] = []

    def now_ms(self) -> float:
        """Milliseconds on this clock, after a sync."""
        if self._sync is not None:
            self._sync()
        return self._now() * 1e3

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Add the time spent inside to ``name``."""
        start = self.now_ms()
        try:
            yield
        finally:
            end = self.now_ms()
            self._spans[name] = self._spans.get(name, 0.0) + end - start
            self.note(name, start, end)

    def note(self, name: str, start_ms: float, end_ms: float) -> None:
        """Put something that was timed elsewhere on the timeline, if one is kept."""
        if self._trace:
            self.timeline.append((name, start_ms, end_ms))

    def take(self) -> dict[str, float]:
        """The spans collected since the last take."""
        spans, self._spans = self._spans, {}
        return spans


class FakeClock(Clock):
    """A clock that advances only when told, in milliseconds."""

    def __init__(self, *, trace: bool = False) -> None:
        self.ms = 0.0
        super().__init__(now=lambda: self.ms / 1e3, trace=trace)

    def advance(self, ms: float) -> None:
        """Let ``ms`` milliseconds pass."""
        self.ms += ms


def past(minutes: float | None) -> Callable[[], bool]:
    """Whether so much time has gone by from now on; None: it never has. SettingError unless it is above 0."""
    if minutes is None:
        return lambda: False
    if not 0 < minutes < float("inf"):
        raise SettingError(f"minutes is {minutes}, must be above 0")
    end = time.monotonic() + 60 * minutes
    return lambda: time.monotonic() >= end
