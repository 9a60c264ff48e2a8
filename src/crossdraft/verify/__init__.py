"""Rules: how the target judges a draft. Catalogue: name -> "module:attribute"."""

from crossdraft.core.protocols import Rule
from crossdraft.core.registry import find
from crossdraft.core.types import Sampling

RULES = {
    "greedy": "crossdraft.verify.greedy:Greedy",
    "sampling": "crossdraft.verify.sampling:KeyedSampling",
    "leviathan": "crossdraft.verify.leviathan:LeviathanSampling",
    "typical": "crossdraft.verify.typical:TypicalAcceptance",
}


def rule_for(sampling: Sampling, *, drawn: bool = False) -> Rule:
    """The rule for ``sampling``: greedy at temperature 0, else keyed sampling, or Leviathan's for drawn drafts."""
    if sampling.temperature == 0:
        greedy: Rule = find("rule", RULES, "greedy")()
        return greedy
    keyed: Rule = find("rule", RULES, "leviathan" if drawn else "sampling")(sampling)
    return keyed
