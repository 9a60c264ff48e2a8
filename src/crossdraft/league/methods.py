"""The table of the league's methods: one line a row, a function from ``Setup`` to ``bench.league.Method``."""

from crossdraft.bench.league import Method
from crossdraft.bench.paired import PLAIN
from crossdraft.bench.theirs import LOOKUP_TOKENS
from crossdraft.league.heads import HEADS
from crossdraft.league.setup import Recipe, Setup, chain, event_model_cost, scripted, transformers

__all__ = ["METHODS", "Setup"]

METHODS: dict[str, Recipe] = {
    PLAIN: lambda setup: Method(name=PLAIN, make=lambda _: setup.bench.make_drafter(PLAIN), kind="baseline"),
    "hf": transformers("hf", 0, "transformers' generate"),
    "hf_lookup": transformers("hf_lookup", LOOKUP_TOKENS, "transformers' generate with prompt lookup"),
    "constant": chain("constant", "the opening that answers to this question usually have"),
    "ngram": chain("ngram", "prompt lookup"),
    "memory": chain("memory", "the stream's answers of this run"),
    "layer_skip": chain("layer_skip", "ASD-style: the target without some of its attention"),
    **HEADS,
    "cross_modal": chain("cross_modal", "the event model's own words", event_model_cost),
    "perfect": scripted("perfect", 1 << 30, "knows the answer: tau is gamma + 1"),
    "hostile": scripted("hostile", 1, "every draft is wrong: tau is 1"),
}
