"""Drafting heads on disk."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from crossdraft.core.errors import CheckpointError
from crossdraft.heads.checkpoint import HEAD, HeadCard, load_head, read_head_card, save_head
from crossdraft.heads.recipes import RECIPES, recipe_of

CARD = HeadCard(method="x", target="small", fingerprint="f00", trained_tokens=12, seconds=1.5, corpus="c")
KEY = "crossdraft.head"


def small(name: str, shape: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    head = recipe_of(name).network(shape, **settings)
    if name == "medusa":
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter)
    return head


def header_of(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()[KEY])  # type: ignore[no-any-return]


def rewrite(path: Path, header: Any, **changed: Any) -> None:
    tensors = {name: t for name, t in (load_file(path) | changed).items() if t is not None}
    save_file(tensors, path, None if header is None else {KEY: json.dumps(header)})


@pytest.mark.parametrize("name", RECIPES)
def test_a_head_comes_back(name: str, shape: Any, tmp_path: Path) -> None:
    head = small(name, shape, **({"own_head": True, "draft_vocab": 5} if name in ("medusa", "eagle3") else {}))
    if len(head.d2t) == 5:
        head.d2t.copy_(torch.tensor([1, 4, 6, 9, 12]))
    card = HeadCard(method=name, target="t", accuracies=[[0.5, 0.25], [0.125, 0.0]])
    path = save_head(tmp_path / HEAD, head, card, torch.float32)
    back, read = load_head(tmp_path)  # its folder will do
    assert read == card == read_head_card(path) and back.config == head.config and type(back) is type(head)
    want = head.state_dict()
    assert back.state_dict().keys() == want.keys()
    assert all(torch.equal(value, want[key]) for key, value in back.state_dict().items())
    assert not back.training and not any(p.requires_grad for p in back.parameters())
    assert back.d2t.dtype == torch.long


def test_half_the_bytes_by_default(shape: Any, tmp_path: Path) -> None:
    head = small("eagle", shape)
    back, _ = load_head(save_head(tmp_path / "a", head, CARD))
    for key, value in back.state_dict().items():
        assert torch.equal(value, head.state_dict()[key].bfloat16().float() if key != "d2t" else head.d2t)
    save_head(tmp_path / "b", head, CARD, torch.float32)
    assert (tmp_path / "a").stat().st_size < 0.7 * (tmp_path / "b").stat().st_size


def test_a_diverged_head_is_not_written(shape: Any, tmp_path: Path) -> None:
    head = small("eagle", shape)
    head.fc.bias.data[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"fc\.bias of head 'x' has NaN"):
        save_head(tmp_path / HEAD, head, CARD)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_head_is_one_line(shape: Any, tmp_path: Path) -> None:
    path = save_head(tmp_path / HEAD, small("eagle3", shape, draft_vocab=5), CARD, torch.float32)
    whole, header, tensors = path.read_bytes(), header_of(path), load_file(path)

    def refusal(reader: Any = load_head) -> str:
        with pytest.raises(CheckpointError) as caught:
            reader(path)
        path.write_bytes(whole)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    path.unlink()
    assert "no such drafting head" in refusal()
    for damaged in (b"", whole[:50], whole[:-1], b"\x80\x04" + whole):
        path.write_bytes(damaged)
        assert "no safetensors file" in refusal()
    rewrite(path, None)
    assert "is no drafting head" in refusal(read_head_card)
    rewrite(path, {**header, "schema": 2})
    assert "newer version" in refusal(read_head_card)
    for wrong in ({}, [], {"schema": 1}, {**header, "card": {"metod": "x"}}, {**header, "kind": "medusa"}):
        rewrite(path, wrong)
        assert "unreadable header" in refusal()
    rewrite(path, header, **{"fc.weight": None})
    assert "fc.weight is missing" in refusal()
    rewrite(path, header, **{"fc.weight": tensors["fc.weight"][:, 1:].contiguous()})
    assert "fc.weight is (16, 47), expected (16, 48)" in refusal()
    rewrite(path, header, extra=torch.zeros(2))
    assert "expected none of that name" in refusal()
    rewrite(path, header, **{"norm.weight": torch.full((16,), float("inf"))})
    assert "NaN or infinite" in refusal()
    for tokens in ([0, 1, 2, 3, 13], [-1, 1, 2, 3, 4]):
        rewrite(path, header, d2t=torch.tensor(tokens))
        assert "drafts tokens that its target does not have" in refusal()
    assert load_head(path)[1] == CARD


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.floats(allow_nan=False), st.text(max_size=3),
    st.lists(st.integers(-2, 3), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@pytest.mark.parametrize("name", ["eagle3", "spec_vlm", "medusa"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_header_escapes_as_anything_else(name: str, data: Any, shape: Any, tmp_path: Path) -> None:
    """One entry of a good header, anywhere in it, replaced by junk."""
    path = save_head(tmp_path / HEAD, small(name, shape), CARD)
    header = header_of(path)
    at = header
    while True:
        key = data.draw(st.sampled_from(sorted(at)))
        if isinstance(at[key], dict) and at[key] and data.draw(st.booleans()):
            at = at[key]
            continue
        at[key] = data.draw(JUNK)
        break
    rewrite(path, header)
    try:
        load_head(path)
    except CheckpointError as error:
        assert "\n" not in str(error)
