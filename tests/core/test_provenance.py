import json
from pathlib import Path

import pytest

from crossdraft._version import __version__
from crossdraft.core.provenance import bf16_unit, has_fma, provenance, slow_bf16


def test_says_where_a_figure_came_from_and_fits_a_record() -> None:
    body = json.loads(json.dumps(provenance()))
    assert body["versions"]["crossdraft"] == __version__
    assert body["machine"]["cores"] >= 1
    assert set(body) == {"date", "commit", "command", "python", "versions", "machine"}


@pytest.mark.parametrize(
    ("vendor", "flags", "unit", "slow"),
    [
        ("GenuineIntel", "avx2 fma avx512_bf16 avx512_fp16 amx_bf16", "amx_bf16", False),
        ("GenuineIntel", "avx2 fma avx512_bf16 avx512_fp16", "", True),
        ("GenuineIntel", "avx2 fma avx512_bf16", "avx512_bf16", False),
        ("AuthenticAMD", "avx2 fma avx512_bf16 avx512_fp16", "avx512_bf16", False),
        ("AuthenticAMD", "avx2 fma", "", False),
        ("GenuineIntel", "sse2", "", False),
    ],
)
def test_a_bf16_unit_is_one_that_pays(
    monkeypatch: pytest.MonkeyPatch, vendor: str, flags: str, unit: str, slow: bool
) -> None:
    told = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: A CPU\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\n"
    monkeypatch.setattr(Path, "read_text", lambda path: told)
    assert bf16_unit() == unit and slow_bf16() is slow and has_fma() is ("fma" in flags)


def test_nobody_knows_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", _missing)
    assert bf16_unit() == "" and not slow_bf16() and not has_fma()


def _missing(path: Path) -> str:
    raise OSError(path)
