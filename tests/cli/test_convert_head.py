"""``crossdraft models convert-head``: in, out and from layout to layout, without a value changed."""

import json

import pytest
import torch
from safetensors.torch import load_file

from crossdraft.heads.checkpoint import HeadCard, load_head, save_head
from crossdraft.heads.recipes import recipe_of
from crossdraft.models import decoder_config, fingerprint


@pytest.fixture(scope="module")
def deep(write_checkpoint, tmp_path_factory):
    """A target of 8 layers, deep enough for the usual taps."""
    return write_checkpoint(tmp_path_factory.mktemp("deep") / "video", "target", num_hidden_layers=8)


@pytest.fixture
def trained(deep, tmp_path):
    """Function: method [, settings of the network] -> (folder of a head as training writes it, the head)."""

    def write(method: str, **settings):
        torch.manual_seed(1)
        head = recipe_of(method).network(decoder_config(deep), **settings).bfloat16().float()
        card = HeadCard(method=method, target="video", fingerprint=fingerprint(deep))
        save_head(tmp_path / method / "head.safetensors", head, card)
        return tmp_path / method, head

    return write


@pytest.mark.parametrize(("method", "settings", "layout"), [
    ("eagle", {}, "eagle"), ("medusa", {"own_head": True}, "medusa"),
    ("eagle3", {"draft_vocab": 30}, "eagle3"), ("eagle3", {}, "speculators"),
])  # fmt: skip
def test_out_and_in_again(run, deep, trained, tmp_path, method, settings, layout) -> None:
    folder, head = trained(method, **settings)
    out, back = tmp_path / "out", tmp_path / "back"
    code, said, _ = run("models", "convert-head", folder, out, "--target", deep, "--layout", layout)
    assert code == 0 and f"layout {layout}, read from crossdraft" in said and f"{head.num_trained:,}" in said
    assert (out / "config.json").is_file()
    code, _, err = run("generate", "--target", deep, "--head", out, "--prompt", "What is there?")
    assert code == 2 and f"convert it: crossdraft models convert-head {out} OUT --target DIR" in err
    code, said, _ = run("models", "convert-head", out, back, "--target", deep, "--json")
    made = json.loads(said)
    assert code == 0
    assert made == {
        "read": layout, "written": "crossdraft", "method": method, "target": "video",
        "path": str(back / "head.safetensors"), "parameters": head.num_trained, "dtype": "bfloat16",
    }  # fmt: skip
    again, card = load_head(back)
    assert (card.method, card.target, card.fingerprint) == (method, "video", fingerprint(deep))
    assert again.config == head.config
    for key, value in again.state_dict().items():
        assert torch.equal(value, head.state_dict()[key]), key


def test_a_published_head_for_a_server(run, deep, trained, tmp_path) -> None:
    folder, _ = trained("eagle3", draft_vocab=30)
    run("models", "convert-head", folder, tmp_path / "a", "--target", deep, "--layout", "eagle3")
    code, said, _ = run("models", "convert-head", tmp_path / "a", tmp_path / "b", "--target", deep,
                        "--layout", "speculators")  # fmt: skip
    assert code == 0 and "layout speculators, read from eagle3" in said
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert config["speculators_config"]["verifier"]["name_or_path"] == str(deep.resolve())
    embeddings = load_file(tmp_path / "b" / "model.safetensors")["embed_tokens.weight"]
    theirs = next(v for k, v in load_file(deep / "model.safetensors").items() if k.endswith("embed_tokens.weight"))
    assert torch.equal(embeddings, theirs.to(embeddings.dtype))


def test_no_digit_is_lost(run, deep, trained, tmp_path) -> None:
    """Half-precision weights that bfloat16 cannot hold stay what they are."""
    folder, head = trained("medusa")
    with torch.no_grad():
        head.blocks[0].weight.fill_(1 + 2**-10)
    card = HeadCard(method="medusa", target="video")
    save_head(folder / "head.safetensors", head, card, torch.float16)
    code, said, _ = run("models", "convert-head", folder, tmp_path / "out", "--target", deep, "--layout", "medusa")
    assert code == 0 and "float16" in said
    stored = load_file(tmp_path / "out" / "medusa_lm_head.safetensors")
    assert stored["0.0.linear.weight"].dtype == torch.float16 and bool(
        (stored["0.0.linear.weight"] == 1 + 2**-10).all()
    )


@pytest.mark.parametrize(("extra", "line"), [
    (["--layout", "gguf"], "unknown layout 'gguf'; known: crossdraft, eagle, eagle3, medusa, speculators"),
    (["--layout", "eagle3"], "only an EAGLE-3 head"),
])  # fmt: skip
def test_what_cannot_be_converted_is_one_line(run, deep, trained, tmp_path, extra, line) -> None:
    folder, _ = trained("eagle")
    code, _, err = run("models", "convert-head", folder, tmp_path / "out", "--target", deep, *extra)
    assert code == 2 and line in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_another_target_is_refused(run, deep, pair, trained, tmp_path) -> None:
    folder, _ = trained("eagle")
    code, _, err = run("models", "convert-head", folder, tmp_path / "out", "--target", pair[0], "--layout", "eagle")
    assert code == 2 and "trained for another target (video)" in err
    # one that does not know what it was trained for, but reads layers that the target lacks
    fused = recipe_of("eagle3").network(decoder_config(deep))
    save_head(folder / "head.safetensors", fused, HeadCard(method="eagle3", target=""))
    code, _, err = run("models", "convert-head", folder, tmp_path / "out", "--target", pair[0])
    assert code == 2 and "layers [1, 3, 4]" in err and "2 layers" in err
    code, _, err = run("models", "convert-head", tmp_path / "none", tmp_path / "out", "--target", deep)
    assert code == 2 and "no such drafting head" in err
