import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

Run = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]
DRAFTERS = ("none", "constant", "ngram", "memory", "layer_skip", "cross_modal")


@pytest.fixture
def ask(run: Run, clip: Path, write_events: Write, pair: tuple[Path, Path]) -> Run:
    """generate with the tiny pair on the clip and its events."""
    events = write_events()

    def call(*options: object, target: Path | None = None, event_model: Path | str | None = None):
        return run(
            "generate", "--target", target or pair[0], "--event-model", event_model or pair[1], "--video", clip,
            "--events", events, "--sensor", "64x48", "--prompt", "What moves here?", "--max-new-tokens", "24",
            *options,
        )  # fmt: skip

    return call


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_answer_is_that_of_plain_decoding(drafter: str, dtype: str, ask: Run) -> None:
    code, out, err = ask("--drafter", drafter, "--dtype", dtype, "--compare", "--audit", "--json")
    assert code == 0, err
    body = json.loads(out)
    assert body["compare"]["identical"]
    assert body["audit"]["passed"]
    assert body["drafter"] == drafter
    assert 1 <= len(body["tokens"]) <= 24
    assert body["lossless"]


def test_text_streams_to_stdout_and_the_honest_lines_go_to_stderr(ask: Run) -> None:
    code, out, err = ask("--drafter", "ngram", "--compare")
    assert code == 0
    body = json.loads(ask("--drafter", "none", "--json")[1])
    assert out.rstrip("\n") == body["text"].rstrip("\n")
    assert "identical to plain decoding" in err
    assert "bit-exact" in err
    assert "tau" in err


def test_without_compare_nothing_is_claimed(ask: Run) -> None:
    assert "not known without --compare" in ask("--drafter", "ngram")[2]


def test_sampling_is_the_same_for_every_drafter(ask: Run) -> None:
    options = ("--temperature", "1.0", "--seed", "3", "--json")
    said = [json.loads(ask("--drafter", name, *options)[1])["tokens"] for name in DRAFTERS]
    assert all(tokens == said[0] for tokens in said)
    other = json.loads(ask("--drafter", "none", "--temperature", "1.0", "--seed", "4", "--json")[1])["tokens"]
    assert other != said[0]


@pytest.mark.parametrize("temperature", ["0", "1"])
def test_a_draft_model_of_any_kind_drafts(
    temperature: str, ask: Run, pair: tuple[Path, Path], write_checkpoint: Write, tmp_path: Path
) -> None:
    options = ("--temperature", temperature, "--seed", "3", "--json")
    plain = json.loads(ask("--drafter", "none", *options)[1])
    narrow = write_checkpoint(tmp_path / "narrow", "target", hidden_size=16, num_attention_heads=2)
    for draft_model in (pair[0], pair[1], narrow):
        code, out, err = ask("--draft-model", draft_model, *options)
        assert code == 0, err
        body = json.loads(out)
        assert body["drafter"] == "draft_model" and body["tokens"] == plain["tokens"]
        assert body["drafted"] > 0 and body["lossless"]


def test_a_draft_model_of_another_vocabulary(
    ask: Run, pair: tuple[Path, Path], write_checkpoint: Write, tmp_path: Path
) -> None:
    """The same bytes under other ids, some of them missing, are mapped; other words altogether are refused."""
    other = write_checkpoint(tmp_path / "other", "target")
    body = json.loads((other / "tokenizer.json").read_text())
    own = body["model"]["vocab"]
    marks = {entry["content"]: entry["id"] for entry in body["added_tokens"]}
    letters = [token for token in own if token not in marks]
    turned = [*letters[7:], *letters[:7]]
    body["model"]["vocab"] = marks | {token: len(marks) + i for i, token in enumerate(turned)}
    (other / "tokenizer.json").write_text(json.dumps(body))
    plain = json.loads(ask("--drafter", "none", "--json")[1])
    code, out, err = ask("--draft-model", other, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["tokens"] == plain["tokens"] and told["drafted"] > 0
    body["model"]["vocab"] = marks | {f"{token}{token}": len(marks) + i for i, token in enumerate(letters)}
    (other / "tokenizer.json").write_text(json.dumps(body))
    (other / "model.safetensors").unlink()  # refused before any weight is read
    code, out, err = ask("--draft-model", other, "--json")
    assert code == 2 and "vocabulary mismatch between target and draft model: 0 of 256 tokens" in err


def test_a_memory_outlives_the_call(ask: Run, tmp_path: Path) -> None:
    options = ("--stream-id", "front", "--memory", tmp_path / "m.json", "--json")
    first = json.loads(ask(*options)[1])
    second = json.loads(ask(*options)[1])
    assert first["drafter"] == second["drafter"] == "memory"
    assert first["tokens"] == second["tokens"]
    assert second["passes"] < first["passes"]


def test_a_record_holds_rounds_and_provenance(ask: Run, tmp_path: Path) -> None:
    assert ask("--drafter", "ngram", "--record", tmp_path / "r.json")[0] == 0
    body = json.loads((tmp_path / "r.json").read_text())
    assert body["kind"] == "generation"
    assert sum(r["emitted"] for r in body["rounds"]) == len(body["tokens"]) - 1
    assert {"versions", "machine", "command"} <= set(body["provenance"])


def test_a_stop_string_is_not_shown(ask: Run) -> None:
    text = json.loads(ask("--drafter", "none", "--json")[1])["text"]
    stop = text[4:6]
    code, out, _ = ask("--drafter", "ngram", "--stop", stop)
    assert code == 0
    assert out.rstrip("\n") == text[: text.index(stop)]


@pytest.mark.parametrize("window", ["off", "sequential", "overlapped", "auto"])
def test_every_window_gives_the_same_answer(window: str, ask: Run) -> None:
    plain = json.loads(ask("--drafter", "none", "--json")[1])
    body = json.loads(ask("--drafter", "cross_modal", "--window", window, "--json")[1])
    assert body["tokens"] == plain["tokens"]
    assert window == "auto" or body["window"]["mode"] == window


def test_an_image_alone(run: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "i.png")
    options = ("--image", tmp_path / "i.png", "--prompt", "What is it?", "--max-new-tokens", "8", "--json")
    code, out, err = run("generate", "--target", pair[0], *options)
    assert code == 0, err
    assert json.loads(out)["drafter"] == "ngram"


def test_profile_is_measured_once(run: Run, pair: tuple[Path, Path]) -> None:
    options = ("--target", pair[0], "--event-model", pair[1], "--json")
    first, second = (json.loads(run("profile", *options)[1]) for _ in range(2))
    assert first == second
    assert set(first["target_pass_ms"]) == {"1", "2", "4", "8", "16", "24", "32"}
    assert first["event_token_ms"] > 0


def test_models_check(run: Run, pair: tuple[Path, Path]) -> None:
    code, out, _ = run("models", "check", pair[0])
    assert code == 0
    assert "video_llava" in out and "ready to load" in out
    assert json.loads(run("models", "check", pair[1], "--json")[1])["family"] == "eventgpt"
    code, out, _ = run("models", "check", "nano", "--json")
    found = json.loads(out)
    assert code == 0 and {role: report["family"] for role, report in found.items()} == {
        "target": "video_llava", "event": "eventgpt"
    }  # fmt: skip


@pytest.mark.parametrize("place", ["", "vision_config"])
def test_a_config_without_measure_is_refused_in_no_time(
    run: Run, pair: tuple[Path, Path], tmp_path: Path, place: str
) -> None:
    folder = shutil.copytree(pair[1], tmp_path / "deep")
    config = json.loads((folder / "config.json").read_text())
    (config[place] if place else config)["num_hidden_layers"] = 10**9
    (folder / "config.json").write_text(json.dumps(config))
    code, out, _ = run("models", "check", folder)
    assert code == 2 and "must be at most" in out


def test_a_preprocessing_that_says_nothing_is_a_problem(run: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(pair[1], tmp_path / "odd")
    (folder / "preprocessor_config.json").write_text("[]")
    code, out, _ = run("models", "check", folder)
    assert code == 2 and "preprocessor_config.json must hold a JSON object" in out


# --- checkpoints that cannot be used: one line, exit code 2 ----------------------------------------------------


def changed(folder: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    change(weights)
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return copy


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    assert code == 2, err
    assert err.startswith("crossdraft: error: ") and err.count("\n") == 1, err
    assert out == ""
    for word in words:
        assert word in err


def test_a_missing_key(ask: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    broken = changed(pair[0], tmp_path, lambda w: w.pop("language_model.model.layers.0.mlp.up_proj.weight"))
    refused(ask(target=broken), "layers.0.mlp.up_proj.weight")


def test_a_key_of_the_wrong_shape(ask: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    def cut(weights: dict[str, torch.Tensor]) -> None:
        name = "language_model.model.layers.1.self_attn.q_proj.weight"
        weights[name] = weights[name][:-1].clone()

    refused(ask(target=changed(pair[0], tmp_path, cut)), "layers.1.self_attn.q_proj.weight", "31")


def test_weights_that_are_not_numbers(ask: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights["language_model.model.layers.0.mlp.down_proj.weight"][0, 0] = float("nan")

    refused(ask(target=changed(pair[0], tmp_path, spoil)), "NaN")


def test_a_pickled_checkpoint(ask: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    copy = tmp_path / "pickled"
    shutil.copytree(pair[0], copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    refused(ask(target=copy), "pytorch_model.bin", "convert")


def test_a_truncated_checkpoint(ask: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    copy = tmp_path / "cut"
    shutil.copytree(pair[0], copy)
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(ask(target=copy), "model.safetensors")


def test_no_such_checkpoint(ask: Run, tmp_path: Path) -> None:
    refused(ask(target=tmp_path / "nowhere"), "nowhere")


def test_vocabularies_that_differ_in_size(ask: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    copy = tmp_path / "other"
    shutil.copytree(pair[1], copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "vocab_size": 5000}))
    refused(ask("--drafter", "cross_modal", event_model=copy), "vocabulary mismatch", "262", "5000")


def test_vocabularies_that_differ_in_their_tokens(ask: Run, pair: tuple[Path, Path], tmp_path: Path) -> None:
    copy = tmp_path / "other"
    shutil.copytree(pair[1], copy)
    body = json.loads((copy / "tokenizer.json").read_text())
    words = body["model"]["vocab"]
    words["a"], words["e"] = words["e"], words["a"]
    (copy / "tokenizer.json").write_text(json.dumps(body))
    refused(ask("--drafter", "cross_modal", event_model=copy), "vocabulary mismatch")


def test_a_prompt_longer_than_the_context(ask: Run) -> None:
    refused(ask("--prompt", "why " * 400), "768")


def test_more_tokens_than_the_context_holds(ask: Run) -> None:
    refused(ask("--max-new-tokens", "700"), "context")


def test_the_disk_is_full_while_saving_the_record(
    ask: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    real = os.replace

    def full(source: object, target: object, **kwargs: object) -> None:
        if str(target).endswith("r.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", full)
    code, _, err = ask("--record", tmp_path / "r.json")
    assert code == 2
    assert "No space left" in err and "Traceback" not in err
    assert not list(tmp_path.glob("*r.json*"))
