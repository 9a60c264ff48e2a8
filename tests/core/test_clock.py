import pytest

from crossdraft.core.clock import Clock, FakeClock, past
from crossdraft.core.errors import SettingError


def test_spans_of_one_name_add_up_and_are_taken_once() -> None:
    clock = FakeClock()
    for ms in (2.0, 3.0):
        with clock.span("draft"):
            clock.advance(ms)
    with clock.span("verify"):
        clock.advance(7.0)
    assert clock.take() == pytest.approx({"draft": 5.0, "verify": 7.0})
    assert clock.take() == {}


def test_a_span_that_fails_is_still_counted() -> None:
    clock = FakeClock()
    with pytest.raises(RuntimeError, match="boom"), clock.span("verify"):
        clock.advance(4.0)
        raise RuntimeError("boom")
    assert clock.take() == pytest.approx({"verify": 4.0})


def test_the_device_is_synchronised_at_both_ends() -> None:
    calls: list[int] = []
    clock = Clock(sync=lambda: calls.append(1))
    with clock.span("x"):
        assert len(calls) == 1
    assert len(calls) == 2


def test_a_tracing_clock_keeps_when_things_happened() -> None:
    clock = FakeClock(trace=True)
    clock.advance(5)
    with clock.span("draft"):
        clock.advance(2)
    clock.note("begin", 1.0, 4.0)
    clock.take()
    assert clock.timeline == [("draft", 5.0, 7.0), ("begin", 1.0, 4.0)]
    plain = FakeClock()
    with plain.span("draft"):
        plain.advance(2)
    assert plain.timeline == []


def test_a_time_that_has_gone_by(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("crossdraft.core.clock.time.monotonic", lambda: now[0])
    is_past, never = past(0.5), past(None)
    for later, gone in ((129.9, False), (130.0, True), (500.0, True)):
        now[0] = later
        assert is_past() is gone and never() is False
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(SettingError, match="must be above 0"):
            past(wrong)
