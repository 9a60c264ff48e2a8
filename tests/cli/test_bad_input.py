"""Bad input gets one clear line and exit code 2, never a traceback."""

import errno
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crossdraft.cli.main import main

Run = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    assert code == 2, err
    assert err.startswith("crossdraft: error: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in out + err
    for word in words:
        assert word in err


class Hostile:
    def __reduce__(self) -> tuple:
        return (os.system, ("echo hostile > hostile.txt",))


def test_no_such_video(run: Run, tmp_path: Path) -> None:
    refused(run("generate", "--video", tmp_path / "none.mp4", "--prompt", "What is it?"), "none.mp4")


def test_not_a_video(run: Run, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("this is no video")
    refused(run("generate", "--video", tmp_path / "text.mp4", "--prompt", "What is it?"), "text.mp4")


def test_no_such_image(run: Run, tmp_path: Path) -> None:
    refused(run("generate", "--image", tmp_path / "none.png", "--prompt", "What is it?"), "none.png")


def test_an_empty_prompt(run: Run, clip: Path) -> None:
    refused(run("generate", "--video", clip, "--prompt", " "), "prompt is empty")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({c: np.zeros(0, np.int64) for c in "xytp"}, "no events"),
        ({"t": np.arange(500)[::-1].copy()}, "sorted"),
        ({"x": np.full(500, 64, np.uint16)}, "64"),
        ({"y": np.full(500, 4000, np.uint16)}, "4000"),
        ({"p": np.full(500, 7, np.uint8)}, "7"),
        ({"x": np.zeros(499, np.uint16)}, "length"),
        ({"t": np.linspace(5e6, 6e6, 500).astype(np.int64)}, "overlap"),
    ],
    ids=["empty", "unsorted", "x outside", "y outside", "polarity", "lengths", "no overlap"],
)
def test_events_that_cannot_be(
    changes: dict[str, np.ndarray], word: str, run: Run, clip: Path, write_events: Write
) -> None:
    events = write_events(**changes)
    result = run(
        "generate", "--video", clip, "--events", events, "--sensor", "64x48", "--drafter", "cross_modal",
        "--prompt", "What moves?",
    )  # fmt: skip
    refused(result, "events.npz", word)


def test_a_recording_without_its_sensor_size(run: Run, clip: Path, write_events: Write) -> None:
    refused(run("generate", "--video", clip, "--events", write_events(), "--prompt", "What moves?"), "sensor")


def test_a_sensor_size_that_is_none(run: Run, write_events: Write) -> None:
    refused(run("data", "check", write_events(), "--sensor", "wide"), "wide")


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_truncated_npy(keep: int, run: Run, tmp_path: Path) -> None:
    whole = tmp_path / "whole.npy"
    np.save(whole, np.array({c: np.arange(50) for c in "xytp"}, dtype=object), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes(whole.read_bytes()[:keep])
    refused(run("data", "check", tmp_path / "cut.npy", "--sensor", "64x48"), "cut.npy")


def test_a_hostile_npy_runs_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "hostile.npy", np.array(Hostile(), dtype=object), allow_pickle=True)
    assert b"system" in (tmp_path / "hostile.npy").read_bytes()
    refused(run("data", "check", "hostile.npy", "--sensor", "64x48"), "hostile.npy")
    assert not (tmp_path / "hostile.txt").exists()


def test_a_file_that_is_no_recording(run: Run, tmp_path: Path) -> None:
    (tmp_path / "letter.npz").write_bytes(pickle.dumps([1, 2, 3]))
    refused(run("data", "check", tmp_path / "letter.npz", "--sensor", "64x48"), "letter.npz")


def test_a_dtype_that_the_device_lacks(run: Run, clip: Path) -> None:
    refused(run("generate", "--video", clip, "--prompt", "What?", "--dtype", "float16"), "float16", "cpu")


def test_a_device_that_is_not_there(run: Run, clip: Path) -> None:
    result = run("generate", "--video", clip, "--prompt", "What?", "--device", "tpu")
    refused(result, "tpu")


def test_an_unknown_drafter(run: Run, clip: Path) -> None:
    result = run("generate", "--video", clip, "--prompt", "What?", "--drafter", "ngran")
    refused(result, "unknown drafter 'ngran'", "Did you mean 'ngram'")


def test_cross_modal_without_events(run: Run, clip: Path) -> None:
    refused(run("generate", "--video", clip, "--prompt", "What?", "--drafter", "cross_modal"), "--events")


def test_cross_modal_without_an_event_model(run: Run, clip: Path, write_events: Write) -> None:
    result = run(
        "generate", "--video", clip, "--events", write_events(), "--sensor", "64x48", "--event-model", "none",
        "--drafter", "cross_modal", "--prompt", "What?",
    )  # fmt: skip
    refused(result, "--event-model")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--drafter", "draft_model"), ("--draft-model",)),
        (("--drafter", "ngram", "--draft-model", "nano"), ("draft_model", "not with 'ngram'")),
        (("--draft-model", "nosuch"), ("no such draft model", "nosuch")),
        (("--draft-model", "nano"), ("events",)),  # the built-in event model sees nothing without
    ],
)
def test_a_draft_model_that_cannot_be(
    options: tuple[str, ...], words: tuple[str, ...], run: Run, clip: Path
) -> None:
    refused(run("generate", "--video", clip, "--prompt", "What?", *options), *words)


def test_layer_skip_on_a_model_that_shows_no_layers(run: Run, clip: Path, tmp_path: Path) -> None:
    """Refused by its config.json alone."""
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "vocab_size": 10}')
    result = run("generate", "--target", tmp_path, "--video", clip, "--prompt", "What?", "--drafter", "layer_skip")
    refused(result, "layer_skip", "own decoder")


@pytest.mark.parametrize(
    "options",
    [
        ("--temperature", "-1"), ("--temperature", "nan"), ("--top-p", "0"), ("--top-k", "-3"),
        ("--max-new-tokens", "0"), ("--threads", "0"), ("--threads", "99999999999999"), ("--stop", ""),
        ("--event-model", "nosuch"), ("--memory", "m.json"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(options: tuple[str, str], run: Run, clip: Path) -> None:
    refused(run("generate", "--video", clip, "--prompt", "What?", *options))


def test_the_disk_is_full_while_saving(
    run: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    result = run("data", "simulate", clip, tmp_path / "out.npz")
    refused(result)
    assert "full" in result[2] or "No space left" in result[2]
    assert not (tmp_path / "out.npz").exists()


def test_a_name_longer_than_the_file_system_takes(run: Run) -> None:
    refused(run("generate", "--video", "v" * 300 + ".mp4", "--prompt", "What?"), "too long")


def test_a_prompt_that_is_no_text(run: Run, clip: Path) -> None:
    refused(run("generate", "--video", clip, "--prompt", "What \udc80?"), "no valid text")


def test_simulating_to_where_nothing_can_be_written(run: Run, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "taken.npz").mkdir()
    refused(run("data", "simulate", clip, tmp_path / "taken.npz"), "cannot write", "choose another place")


def test_the_offset_that_is_advised_works(run: Run, clip: Path, write_events: Write) -> None:
    """Whatever offset was given first, the advised one is for the recording's own clock."""
    common = ("generate", "--video", clip, "--events", write_events(), "--sensor", "64x48", "--prompt", "What?",
              "--drafter", "cross_modal", "--max-new-tokens", "4")  # fmt: skip
    result = run(*common, "--event-offset-us", "-5000000")
    refused(result, "do not overlap")
    advised = result[2].split("--event-offset-us ")[1].split(",")[0]
    code, _, err = run(*common, "--event-offset-us", advised)
    assert code == 0, err


@pytest.mark.parametrize("config", [b"[]", b'{"text_config": null}', b"\xff\xfe", b"[" * 100_000])
def test_a_config_that_says_nothing(
    run: Run, clip: Path, write_events: Write, tmp_path: Path, config: bytes
) -> None:
    target = tmp_path / "odd"
    target.mkdir()
    (target / "config.json").write_bytes(config)
    result = run("generate", "--video", clip, "--events", write_events(), "--sensor", "64x48", "--prompt", "What?",
                 "--drafter", "cross_modal", "--event-model", "nano", "--target", target)  # fmt: skip
    refused(result)


@pytest.mark.parametrize(
    "body",
    [
        '{"schema": "x", "kind": "stream-memory"}', '{"schema": null, "kind": "stream-memory"}', "[" * 100_000,
        '{"schema": 1, "kind": "stream-memory", "settings": {}, "shelves": [{"stream_id": "s", "question": "q", '
        '"answers": [[Infinity]]}]}',
        '{"schema": 1, "kind": "stream-memory", "settings": {}, "shelves": [{"stream_id": "s", "question": "q", '
        '"answers": [[1.5]]}]}',
        '{"schema": 1, "kind": "stream-memory", "settings": {"clips": 1.5}, "shelves": []}',
    ],
)  # fmt: skip
def test_a_damaged_memory(run: Run, clip: Path, tmp_path: Path, body: str) -> None:
    (tmp_path / "m.json").write_text(body)
    result = run(
        "generate", "--video", clip, "--prompt", "What?", "--stream-id", "s", "--memory", tmp_path / "m.json"
    )
    refused(result)


def test_interrupted_while_the_commands_are_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crossdraft.cli.main.importlib.import_module", interrupt)
    code, _, err = run("list")
    assert code == 130 and err == "crossdraft: interrupted\n"


def test_without_a_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["list"]) == 0
