import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from crossdraft.core.clock import Clock
from crossdraft.core.errors import DataError, SettingError
from crossdraft.core.protocols import Window
from crossdraft.decode.window import CountedWindow, TimedWindow, WindowPlan, choose, run_together


@dataclass
class Times:
    target_encode_ms: float = 40.0
    target_prefill_ms: float = 60.0
    event_encode_ms: float | None = 5.0
    event_prefill_ms: float | None = 5.0
    device: str = "cpu"
    own_device: bool = False
    overlapped_ms: float | None = None


def test_what_was_asked_for_is_done() -> None:
    for mode in ("off", "sequential", "overlapped", "own-device"):
        assert choose(mode, Times()) == WindowPlan(mode, "asked for")
    with pytest.raises(SettingError, match="unknown window 'sometimes'"):
        choose("sometimes")
    with pytest.raises(SettingError):
        WindowPlan("auto", "")


@pytest.mark.parametrize(
    ("times", "mode", "why"),
    [
        (None, "off", "no measured times"),
        (Times(event_prefill_ms=None), "off", "no event model"),
        (Times(own_device=True), "own-device", "100 ms side by side, 110 ms one after another"),
        (Times(device="cuda:0"), "overlapped", "streams"),
        (Times(), "off", "110 ms one after another"),
        (Times(overlapped_ms=90.0), "overlapped", "90 ms overlapped, 110 ms one after another"),
        (Times(overlapped_ms=108.0), "off", "108 ms overlapped"),  # within the noise
        (Times(device="cuda:0", overlapped_ms=130.0), "off", "130 ms overlapped"),
    ],
)
def test_auto_decides_by_measured_times_and_says_why(times: Any, mode: str, why: str) -> None:
    plan = choose("auto", times)
    assert plan.mode == mode and why in plan.why and plan.why.startswith("auto: ")


class Guess:
    def observe(self, step: Any) -> None: ...
    def finish(self) -> None: ...
    def propose(self, room: int) -> Any: ...


@pytest.mark.parametrize("mode", ["off", "sequential", "overlapped", "own-device"])
def test_order_threads_and_openness(mode: str) -> None:
    log: list[str] = []
    opened, main = threading.Event(), threading.current_thread()
    before = torch.get_num_threads()
    counts: dict[str, int] = {}

    def begin(window: Window) -> Guess:
        log.append("begin")
        counts["begin"] = torch.get_num_threads()
        assert torch.is_inference_mode_enabled() or mode in ("off", "sequential")
        assert window.is_open == (mode in ("overlapped", "own-device"))
        assert (threading.current_thread() is main) == (mode in ("off", "sequential"))
        opened.set()
        while window.is_open:  # closes when the prefill is done, or this test hangs
            time.sleep(0.001)
        return Guess()

    def prefill() -> str:
        if mode in ("overlapped", "own-device"):
            assert opened.wait(20)  # they really run side by side
        counts["prefill"] = torch.get_num_threads()
        log.append("prefill")
        return "session"

    ready, begun, spans = run_together(mode, begin, prefill, Clock())
    assert ready == "session"
    assert (log == ["prefill"]) == (mode == "off")
    assert isinstance(begun(), Guess)
    assert log == (["prefill", "begin"] if mode == "off" else ["begin", "prefill"])
    assert spans["begin_ms"] >= 0 and ("waited_ms" in spans) == (mode in ("overlapped", "own-device"))
    assert torch.get_num_threads() == before


def test_no_window_changes_the_targets_thread_count() -> None:
    """Another count could round the prefill otherwise than plain decoding's."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    counts: dict[str, int] = {}

    def begin(window: Window) -> Guess:
        return Guess()

    def prefill() -> None:
        counts["prefill"] = torch.get_num_threads()

    try:
        for mode in ("off", "sequential", "overlapped", "own-device"):
            run_together(mode, begin, prefill, Clock())
            assert counts["prefill"] == 2 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("mode", ["off", "sequential", "overlapped", "own-device"])
def test_errors_of_either_side_arrive_and_nothing_is_left_running(mode: str) -> None:
    before, running = torch.get_num_threads(), threading.active_count()

    def bad_begin(window: Window) -> Guess:
        raise DataError("no events")

    def long_begin(window: Window) -> Guess:
        while window.is_open:
            time.sleep(0.001)
        return Guess()

    def bad_prefill() -> None:
        raise SettingError("no room")

    with pytest.raises(DataError, match="no events"):
        run_together(mode, bad_begin, lambda: None, Clock())[1]()
    with pytest.raises(SettingError, match="no room"):
        run_together(mode, long_begin, bad_prefill, Clock())
    assert torch.get_num_threads() == before and threading.active_count() == running


def test_windows() -> None:
    window = TimedWindow()
    assert window.is_open
    window.close()
    assert not window.is_open and not TimedWindow(is_open=False).is_open
    counted = CountedWindow(2)
    assert [counted.is_open for _ in range(4)] == [True, True, False, False]
