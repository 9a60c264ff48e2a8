from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from crossdraft.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("CROSSDRAFT_CACHE", str(tmp_path / "cache"))

    def call(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(a) for a in argv])
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return call


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A video of one second, 64 x 48: a bright square that moves to the right."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(20):
            frame = np.zeros((48, 64, 3), np.uint8)
            frame[16:32, 2 * i : 2 * i + 16] = 220
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


def columns(count: int = 500, last_us: int = 999_000) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.integers(0, 64, count).astype(np.uint16),
        "y": rng.integers(0, 48, count).astype(np.uint16),
        "t": np.sort(rng.integers(0, last_us, count)).astype(np.int64),
        "p": rng.integers(0, 2, count).astype(np.uint8),
    }


@pytest.fixture
def write_events(tmp_path: Path) -> Callable[..., Path]:
    """Write an npz recording of the clip's scene; keyword arguments replace columns."""

    def write(name: str = "events.npz", **changes: np.ndarray) -> Path:
        path = tmp_path / name
        np.savez(path, **{**columns(), **changes})
        return path

    return write
