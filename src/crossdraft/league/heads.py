"""The league's rows with weights of their own: trained heads, a smaller model, an event model and its adapters."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from crossdraft.bench.league import Cost, Heat, Method, Settings
from crossdraft.bench.paired import Answer
from crossdraft.build import (
    NANO,
    NANO_DISTILLED,
    fitted_head,
    load_draft_model,
    load_event_model,
    lora_of,
    make_drafter,
)
from crossdraft.core.errors import SettingError
from crossdraft.core.protocols import VLM, Drafter, Rule
from crossdraft.core.registry import find
from crossdraft.core.types import Sampling
from crossdraft.drafters.combined import parts_of
from crossdraft.league.setup import Recipe, Setup, weight_bytes
from crossdraft.training.adapters import ADAPTER
from crossdraft.verify import RULES, rule_for

TREES: tuple[Settings, ...] = (
    {}, {"nodes": 6, "depth": 3, "branch": 4}, {"nodes": 12, "depth": 5, "branch": 4},
    {"nodes": 24, "depth": 6, "branch": 6}, {"nodes": 31, "depth": 8, "branch": 8}, {"shape": "chain", "depth": 3},
    {"shape": "chain", "depth": 5},
)  # fmt: skip
"""Tried for a head whose tree grows: as many nodes as pay, several sizes, and chains."""

STATIC: tuple[Settings, ...] = ({}, {"nodes": 12}, {"nodes": 8, "depth": 3})
MEDUSA: tuple[Settings, ...] = ({}, {"nodes": 4}, {"nodes": 8}, {"nodes": 16}, {"nodes": 31})
CHAINS: tuple[Settings, ...] = tuple({"shape": "chain", "depth": depth} for depth in (5, 2, 3, 8))


def head(
    name: str, drafter: str, grid: tuple[Settings, ...], equal: Callable[[int, int], Settings], note: str
) -> Recipe:
    """A drafter with a trained head: with the first settings of ``grid``, unless told otherwise."""

    def method(setup: Setup) -> Method:
        def make(settings: Settings) -> Drafter:
            return make_drafter(
                drafter, target=setup.pair.target, head=setup.heads, settings=settings, costs=setup.bench.costs
            )

        def cost() -> Cost:
            found = fitted_head(parts_of(drafter)[0], setup.pair.target, setup.heads)
            return Cost(
                parameters=found.runner.num_trained, training_tokens=found.card.trained_tokens,
                training_seconds=found.card.seconds, weight_bytes=found.runner.weight_bytes,
            )  # fmt: skip

        return Method(
            name=name, make=make, settings=grid[0], grid=grid, equal=equal, kind="trained", cost=cost, note=note
        )

    return method


def typical(setup: Setup) -> Method:
    """Medusa's heads with Medusa's own rule: above temperature 0 it says other things than the target would."""

    def rule(temperature: float, seed: int) -> Rule:
        sampling = Sampling(temperature=temperature, seed=seed)
        judge: Rule = find("rule", RULES, "typical")(sampling) if temperature else rule_for(sampling)
        return judge

    return replace(
        HEADS["medusa"](setup), name="medusa_typical", rule=rule, note="typical acceptance; lossy above 0"
    )


def _tree_budget(nodes: int, depth: int) -> Settings:
    return {"nodes": nodes, "depth": depth, "branch": 8}


def _plain_budget(nodes: int, depth: int) -> Settings:
    return {"nodes": nodes, "depth": depth}


def _chain_budget(nodes: int, depth: int) -> Settings:
    return {"shape": "chain", "depth": min(nodes, depth)}


def growing(name: str, note: str) -> Recipe:
    """A head whose tree its own confidence grows."""
    return head(name, name, TREES, _tree_budget, note)


def smaller_model(setup: Setup) -> Method:
    """A smaller model's chain: its best tokens at temperature 0, above it drawn ones for Leviathan's rule."""

    def load() -> VLM:
        ref = setup.draft_model or (NANO_DISTILLED if setup.is_nano else None)
        if ref is None:
            raise SettingError("no smaller model was given; name one with --draft-model")
        source = setup.source
        model: VLM = setup.once(ref, lambda: load_draft_model(ref, dtype=source.dtype, device=source.device))
        return model

    def rule(temperature: float, seed: int) -> Rule:
        sampling = Sampling(temperature=temperature, seed=seed)
        return rule_for(sampling, drawn=True)

    def enter(heat: Heat, settings: Settings) -> Answer:
        sampling = Sampling(temperature=heat.temperature, seed=heat.seed) if heat.temperature else None
        drafter = make_drafter(
            "draft_model", target=setup.pair.target, draft_model=load(), length=settings.get("length"),
            costs=setup.bench.costs, sampling=sampling,
        )  # fmt: skip
        return lambda number: heat.answer(own, drafter, number)

    own = Method(
        name="draft_model", enter=enter, rule=rule, grid=({}, {"length": 2}, {"length": 4}, {"length": 8}),
        equal=lambda nodes, depth: {"length": min(nodes, depth)}, kind="trained",
        cost=lambda: Cost(training_tokens=None, training_seconds=None, weight_bytes=weight_bytes(load())),
        note="a smaller model's chain",
    )  # fmt: skip
    return own


def crossing(name: str, level: str | None, event_model: str | None, note: str) -> Recipe:
    """The event model through an adapter, or another event model than the pair's."""

    def method(setup: Setup) -> Method:
        def adapter() -> Path | None:
            if level is None:
                return None
            if setup.adapters is None:
                raise SettingError("no adapters were given; name a study's folder of trainings with --adapters")
            return setup.adapters / level / ADAPTER

        def load() -> VLM:
            if setup.pair.event_model is None or not setup.is_nano:
                raise SettingError("this row needs the built-in pair")
            lora = lora_of(adapter())
            if event_model is None and lora is None:
                return setup.pair.event_model
            ref, source = event_model or NANO, setup.source
            model: VLM = setup.once(
                f"{ref} {lora}",
                lambda: load_event_model(ref, dtype=source.dtype, device=source.device, lora=lora),
            )
            return model

        def make(settings: Settings) -> Drafter:
            return make_drafter(
                "cross_modal", target=setup.pair.target, event_model=load(), adapter=adapter(),
                length=settings.get("length"), costs=setup.bench.costs,
            )  # fmt: skip

        def cost() -> Cost:
            path = adapter()
            own = path.stat().st_size if path is not None and lora_of(path) is None else 0
            return Cost(training_tokens=None, training_seconds=None, weight_bytes=weight_bytes(load()) + own)

        return Method(
            name=name, make=make, grid=({}, {"length": 2}, {"length": 4}, {"length": 8}),
            equal=lambda nodes, depth: {"length": min(nodes, depth)}, kind="trained", cost=cost, note=note,
        )  # fmt: skip

    return method


HEADS: dict[str, Recipe] = {
    "draft_model": smaller_model,
    "medusa": head("medusa", "medusa", MEDUSA, _plain_budget, "Medusa-1 heads, static tree"),
    "medusa_typical": typical,
    "eagle_chain": head("eagle_chain", "eagle", CHAINS, _chain_budget, "EAGLE's head, a chain"),
    "eagle": head("eagle", "eagle", STATIC, _plain_budget, "EAGLE's head, its static tree"),
    "eagle2": growing("eagle2", note="EAGLE's head, a tree that grows"),
    "hass": growing("hass", note="EAGLE's network, HASS's training"),
    "eagle3": growing("eagle3", note="fused features, tokens alone"),
    "eagle3+ngram": growing("eagle3+ngram", note="EAGLE-3's tree with prompt lookup's chain in it"),
    "eagle_vlm": growing("eagle_vlm", note="EAGLE-2 over visual tokens, input norm"),
    "spec_vlm": growing("spec_vlm", note="visual tokens compressed as the question wants"),
    "vispec": growing("vispec", note="one token for the pictures"),
    "msd": growing("msd", note="visual tokens as they are"),
    "cross_modal_distilled": crossing(
        "cross_modal_distilled", None, NANO_DISTILLED, "the event model taught the target's phrasing"
    ),
    **{
        f"cross_modal_{level}": crossing(f"cross_modal_{level}", level, None, f"through adapter {level}")
        for level in ("l1", "l2", "l3", "l4", "l5", "l6")
    },
}
