from typing import Any

import pytest
import torch

from crossdraft.core.errors import SettingError
from crossdraft.heads.feature import FeatureHead, FeatureHeadConfig, eagle_layer, fusion_taps, with_draft_vocab
from crossdraft.heads.medusa import MedusaConfig
from crossdraft.heads.recipes import RECIPES, recipe_of
from crossdraft.heads.visual import VisualConfig
from crossdraft.nn.decoder import DecoderConfig

VICUNA = DecoderConfig(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_layers=32, num_heads=32, num_kv_heads=32,
    head_dim=128,
)  # fmt: skip
LLAMA_31 = DecoderConfig(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_layers=32, num_heads=32, num_kv_heads=8,
    head_dim=128,
)  # fmt: skip

TINY = DecoderConfig(
    vocab_size=20, hidden_size=16, intermediate_size=24, num_layers=3, num_heads=2, num_kv_heads=1, head_dim=8
)


def count(name: str, target: DecoderConfig = VICUNA, **settings: object) -> float:
    """Trained parameters in millions."""
    with torch.device("meta"):
        return recipe_of(name).network(target, **settings).num_trained / 1e6


@pytest.mark.parametrize("name", ["eagle", "hass", "msd"])
def test_eagles_network_has_the_papers_size(name: str) -> None:
    """FC 33.56 + attention 67.11 + MLP 135.27."""
    assert count(name) == pytest.approx(235.94, abs=0.005)


def test_an_input_norm_is_one_more_vector() -> None:
    assert count("eagle_vlm") - count("eagle") == pytest.approx(4096 / 1e6)


def test_eagle3_has_the_papers_size() -> None:
    assert count("eagle3") == pytest.approx(434.13, abs=0.01)
    assert count("eagle3") - 32000 * 4096 / 1e6 == pytest.approx(303.05, abs=0.02)
    assert count("eagle3", LLAMA_31, draft_vocab=32000) == pytest.approx(424.7, abs=0.05)


def test_medusa_has_the_papers_size() -> None:
    """A head with its own output matrix, and one that shares the target's."""
    assert count("medusa", heads=1, own_head=True) == pytest.approx(147.85, abs=0.01)
    assert count("medusa", heads=1) == pytest.approx(16.78, abs=0.005)
    for heads, millions in ((3, 443.6), (4, 591.4), (5, 739.3)):
        assert count("medusa", heads=heads, own_head=True) == pytest.approx(millions, abs=0.06)


def test_what_pictures_add() -> None:
    assert count("vispec") == pytest.approx(319.84, abs=0.01)
    plain = count("eagle_vlm")

    def branch(*names: str) -> float:
        return count("spec_vlm", visual=VisualConfig(kind="compress", branches=names)) - plain

    assert branch("conv") == pytest.approx(50.3, abs=0.05)
    assert branch("resample") == pytest.approx(67.1, abs=0.05)
    assert branch("prune") == branch("pool") == branch("text-only") == 0
    gate = count("spec_vlm") - plain - branch("conv") - branch("resample")
    assert 0 < gate < 1


@pytest.mark.parametrize("layers", range(1, 81))
def test_taps_are_low_middle_and_high(layers: int) -> None:
    low, middle, high = fusion_taps(layers)
    assert 0 <= low <= middle <= high <= max(0, layers - 2)
    if layers >= 4:
        assert low < middle < high
    if layers >= 8:  # entering layers 2, L // 2 and L - 3
        assert (low, middle, high) == (1, layers // 2 - 1, layers - 4)
    assert recipe_of("eagle3").network(eagle_small(layers)).config.taps == (low, middle, high)


def eagle_small(layers: int) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=5, hidden_size=4, intermediate_size=4, num_layers=layers, num_heads=1, num_kv_heads=1, head_dim=4
    )


def test_recipes_are_the_papers() -> None:
    """Passes, decay, detachment and the losses of methods that share a network."""
    hass, eagle3 = recipe_of("hass"), recipe_of("eagle3")
    assert (hass.passes, hass.detach) == (3, True) and (eagle3.passes, eagle3.detach) == (7, False)
    assert eagle3.decay == recipe_of("medusa").decay == 0.8 and eagle3.noise == 0
    assert hass.loss is not None and hass.loss.top_k_ce == 1.0 and hass.loss.top_k == 10
    assert all(RECIPES[name].noise == 0.1 for name in ("eagle", "hass", "eagle_vlm", "spec_vlm", "vispec", "msd"))
    with torch.device("meta"):
        shapes = {
            name: {n: tuple(p.shape) for n, p in recipe_of(name).network(VICUNA).named_parameters()}
            for name in ("eagle", "hass", "msd")
        }
    assert shapes["eagle"] == shapes["hass"] == shapes["msd"]
    assert not any(name.startswith(("norm", "lm_head", "layer.input_layernorm")) for name in shapes["eagle"])


def test_settings_that_cannot_work_are_refused() -> None:
    layer = eagle_layer(eagle_small(4), 8)
    assert (layer.num_layers, layer.intermediate_size) == (1, 8)
    with pytest.raises(SettingError, match="known: medusa, eagle"):
        recipe_of("eagle2")
    with pytest.raises(SettingError, match="reads one tap, not 2"):
        FeatureHeadConfig(layer=layer, taps=(0, 1))
    with pytest.raises(SettingError, match="at least one tap"):
        FeatureHeadConfig(layer=layer, taps=(), fuse="attention")
    with pytest.raises(SettingError, match="by concatenation can take a picture"):
        FeatureHeadConfig(layer=layer, fuse="attention", visual=VisualConfig(kind="direct"))
    for draft in (0, 6):
        with pytest.raises(SettingError, match="draft_vocab"):
            FeatureHeadConfig(layer=layer, draft_vocab=draft)
        with pytest.raises(SettingError, match="draft_vocab"):
            MedusaConfig(hidden_size=4, vocab_size=5, draft_vocab=draft)
    with pytest.raises(SettingError, match="heads is 0"):
        MedusaConfig(hidden_size=4, vocab_size=5, heads=0)
    small = recipe_of("eagle3").network(eagle_small(4), draft_vocab=3)
    assert with_draft_vocab(small, torch.tensor([4, 0, 2])).d2t.tolist() == [4, 0, 2]
    with pytest.raises(SettingError, match="2 draft tokens are given, the head has 3"):
        with_draft_vocab(small, torch.tensor([1, 2]))
    for wrong, line in (
        ({"kind": "sum"}, "visual kind is 'sum'"),
        ({"kind": "compress", "branches": ("shrink",)}, "unknown compressor 'shrink'"),
        ({"kind": "compress", "branches": ()}, "at least one branch"),
        ({"kind": "summary", "queries": 1}, "queries"),
        ({"kind": "compress", "ratio": 0}, "ratio"),
    ):
        with pytest.raises(SettingError, match=line):
            VisualConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("eagle", {"foo": 3}, "a head has no setting 'foo'; known: intermediate_size, branches, taps"),
        ("medusa", {"foo": 3}, "a head has no setting 'foo'; known: heads, own_head, draft_vocab"),
        ("medusa", {"hidden_size": 3}, "no setting 'hidden_size'"),
        ("medusa", {"heads": "x"}, "heads is 'x', must be one of: int"),
        ("medusa", {"own_head": 1}, "own_head is 1, must be one of: bool"),
        ("eagle3", {"draft_vocab": 2.5}, "draft_vocab is 2.5, must be one of: int, NoneType"),
        ("eagle3", {"fuse": "sum"}, "fuse is 'sum', must be one of: concat, attention"),
        ("eagle", {"taps": 2}, "taps is 2, must be one of: tuple"),
    ],
)
def test_settings_that_no_network_has_are_refused(name: str, setting: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        recipe_of(name).network(TINY, **setting)


def test_branches_of_a_compressor_are_named_in_one_text() -> None:
    head = recipe_of("spec_vlm").network(TINY, branches="pool,text-only")
    assert isinstance(head, FeatureHead) and head.config.visual is not None
    assert head.config.visual.branches == ("pool", "text-only")
    with pytest.raises(SettingError, match="compresses pictures"):
        recipe_of("eagle").network(TINY, branches="pool")
