"""What the tests of data share: small recordings and videos, made on the spot."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

Columns = dict[str, np.ndarray]


@pytest.fixture
def columns() -> Columns:
    """3,000 events of a 64 x 48 sensor within 50 ms, on a camera's own clock."""
    rng = np.random.default_rng(7)
    return {
        "x": rng.integers(0, 64, 3000).astype(np.uint16),
        "y": rng.integers(0, 48, 3000).astype(np.uint16),
        "p": rng.integers(0, 2, 3000).astype(np.uint8),
        "t": 51_835_949_776 + np.sort(rng.integers(0, 50_000, 3000)),
    }


@pytest.fixture
def write_video(tmp_path: Path) -> Callable[..., Path]:
    """write_video(frames (F, H, W, 3), times_ms=None, name=...): coded without loss, to compare pixels."""

    def write(frames: np.ndarray, times_ms: list[int] | None = None, name: str = "clip.mkv", fps: int = 20) -> Path:
        path = tmp_path / name
        times = [round(i * 1000 / fps) for i in range(len(frames))] if times_ms is None else times_ms
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264rgb" if name.endswith(".mkv") else "libx264", rate=fps)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "rgb24" if name.endswith(".mkv") else "yuv420p"
            stream.options = {"qp": "0"}
            stream.codec_context.time_base = Fraction(1, 1000)
            for picture, time in zip(frames, times, strict=True):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = time, Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return write
