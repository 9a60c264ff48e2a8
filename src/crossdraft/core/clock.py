"""Wall-clock spans in milliseconds; a fake clock for tests."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Clock:
    """Collects named spans. ``sync`` is called at both ends of a span (a device's synchronise; nothing on CPU)."""

    def __init__(
        self, now: Callable[[], float] = time.perf_counter, sync: Callable[[], None] | None = None
    ) -> None:
        self._now, self._sync = now, sync
        self._spans: dict[str, float] = {}

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
            self._spans[name] = self._spans.get(name, 0.0) + self.now_ms() - start

    def take(self) -> dict[str, float]:
        """The spans collected since the last take."""
        spans, self._spans = self._spans, {}
        return spans


class FakeClock(Clock):
    """A clock that advances only when told, in milliseconds."""

    def __init__(self) -> None:
        self.ms = 0.0
        super().__init__(now=lambda: self.ms / 1e3)

    def advance(self, ms: float) -> None:
        """Let ``ms`` milliseconds pass."""
        self.ms += ms
