"""Which network each trained method is, and how it is taught; a method that trains an old network anew is a line.

Weights of the losses, passes and decays are the papers'. What decides how long and how fast a training goes is the
caller's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args, get_origin, get_type_hints

from crossdraft.core.errors import SettingError
from crossdraft.heads.feature import FeatureHead, FeatureHeadConfig, eagle_layer, fusion_taps
from crossdraft.heads.medusa import MedusaConfig, MedusaHead
from crossdraft.heads.visual import VisualConfig
from crossdraft.nn.decoder import DecoderConfig
from crossdraft.nn.losses import LossConfig

Head = FeatureHead | MedusaHead

EAGLE = LossConfig(smooth_l1=1.0, kl=0.1)
"""arXiv 2401.15077, section 3.2; the gradient of the soft cross-entropy is that of the divergence."""

HASS = LossConfig(smooth_l1=1.0, kl=0.1, top_k_ce=1.0)
"""arXiv 2408.15766: the released recipe's second part."""

TOKENS_ONLY = LossConfig(kl=1.0)
"""arXiv 2503.01840: no loss on features."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """network: from the target's decoder and the settings that a user gives. passes: guesses of a chain that are
    trained; detach: gradients stay within a pass; decay: pass (or Medusa head) j counts decay^j. loss: of a pass;
    None: cross-entropy of the text's own tokens. noise: uniform noise on the features, +-noise * 512 / length.
    """

    network: Callable[..., Head]
    passes: int = 1
    detach: bool = True
    decay: float = 1.0
    loss: LossConfig | None = field(default=EAGLE)
    noise: float = 0.0


_OF_THE_TARGET = ("layer", "hidden_size", "vocab_size")


def _check(kind: type, own: Mapping[str, Any], *also: str) -> None:
    """SettingError unless ``own`` are settings of ``kind`` that can be given, with values of their types."""
    hints = {name: hint for name, hint in get_type_hints(kind).items() if name not in _OF_THE_TARGET}
    for name, value in own.items():
        if name not in hints:
            raise SettingError(f"a head has no setting '{name}'; known: {', '.join((*also, *hints))}")
        hint = hints[name]
        allowed = (tuple,) if get_origin(hint) is tuple else get_args(hint) or (hint,)
        if value not in allowed and type(value) not in allowed:
            named = ", ".join(str(getattr(one, "__name__", one)) for one in allowed)
            raise SettingError(f"{name} is {value!r}, must be one of: {named}")


def _feature(**fixed: Any) -> Callable[..., FeatureHead]:
    def build(
        target: DecoderConfig, *, intermediate_size: int | None = None, branches: str | None = None, **own: Any
    ) -> FeatureHead:
        """branches: of a compressor, with commas between them."""
        layer = eagle_layer(target, intermediate_size)
        _check(FeatureHeadConfig, own, "intermediate_size", "branches")
        settings = {**fixed, **own}
        if branches is not None:
            if settings.get("visual") is None:
                raise SettingError("branches are for a head that compresses pictures")
            settings["visual"] = replace(settings["visual"], branches=tuple(branches.split(",")))
        if settings.get("fuse") == "attention":
            settings.setdefault("taps", fusion_taps(target.num_layers))
        return FeatureHead(FeatureHeadConfig(layer=layer, **settings))

    return build


def _medusa(target: DecoderConfig, **own: Any) -> MedusaHead:
    _check(MedusaConfig, own)
    return MedusaHead(MedusaConfig(hidden_size=target.hidden_size, vocab_size=target.vocab_size, **own))


_EAGLE = Recipe(network=_feature(), noise=0.1)
_VISION = replace(_EAGLE, network=_feature(norm_input=True))

RECIPES: dict[str, Recipe] = {
    "medusa": Recipe(network=_medusa, decay=0.8, loss=None),
    "eagle": _EAGLE,
    "hass": replace(_EAGLE, passes=3, loss=HASS),
    "eagle3": Recipe(
        network=_feature(fuse="attention", own_head=True), passes=7, detach=False, decay=0.8, loss=TOKENS_ONLY
    ),
    "eagle_vlm": _VISION,
    "spec_vlm": replace(_VISION, network=_feature(norm_input=True, visual=VisualConfig(kind="compress"))),
    # its list-wise loss over the target's ten best is the cross-entropy of the ten best here
    "vispec": replace(
        _EAGLE, network=_feature(visual=VisualConfig(kind="summary")), passes=2,
        loss=LossConfig(kl=1.0, top_k_ce=0.1),
    ),
    "msd": replace(_EAGLE, network=_feature(visual=VisualConfig(kind="direct"))),
}  # fmt: skip


def recipe_of(name: str) -> Recipe:
    """The recipe of a trained method. SettingError for another name."""
    if name not in RECIPES:
        raise SettingError(
            f"'{name}' is no drafting head that can be trained; known: {', '.join(RECIPES)}, medusa2"
        )
    return RECIPES[name]
