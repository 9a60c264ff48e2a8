"""The script that checks a GPU runs from end to end, on the CPU with tiny shapes."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_runs_on_the_cpu(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "WIDTHS", (1, 8, 32))
    out = tmp_path / "gpu.md"
    assert script.main(["--device", "cpu", "--tiny", "--out", str(out)]) == 0
    text = out.read_text()
    assert "64 greedy tokens identical: True" in text
    assert "{2: 0, 5: 0, 8: 0, 16: 0, 32: 0}" in text
    assert "tree that differ from plain text: 0" in text
    assert "| v(rows) | 1.00 |" in text


def test_without_a_gpu_it_says_so(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script.torch.cuda, "is_available", lambda: False)
    assert script.main(["--out", str(tmp_path / "gpu.md")]) == 2
    assert "no CUDA device" in capsys.readouterr().err
