"""EAGLE: a tree of fixed form, filled by rank or by drawing."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy import stats

from crossdraft.core.prompt import Prompt
from crossdraft.core.tree import EAGLE_1, depths
from crossdraft.core.types import Limits, Sampling
from crossdraft.decode.loop import generate
from crossdraft.drafters.eagle import Eagle
from crossdraft.verify.greedy import Greedy
from crossdraft.verify.leviathan import LeviathanSampling
from crossdraft.verify.sampling import KeyedSampling, process_logits

SAID = (5, 9, 2, 17)


@torch.inference_mode()
def test_every_node_is_its_rank_under_its_parent(
    tiny: Any, prompt: Prompt, begin: Any, retell: Any, paths: Any
) -> None:
    draft = begin(tiny.drafter("eagle"), tiny.target, prompt, SAID).propose(99)
    deep = depths(draft.parents.tolist())
    assert torch.bincount(deep).tolist() == [0, 4, 8, 8, 3, 2] and len(draft) == 25
    told = retell(tiny.head("eagle"), tiny.target, prompt, SAID)
    for node, path in enumerate(paths(draft)):
        best = told.children(path[:-1], 4)
        assert path[-1] == best[EAGLE_1.ranks[node]][0]
    assert draft.probs is None and draft.source == "eagle"


@torch.inference_mode()
def test_the_tree_is_cut_where_the_answer_ends(tiny: Any, prompt: Prompt, begin: Any, paths: Any) -> None:
    whole = paths(begin(tiny.drafter("eagle"), tiny.target, prompt, SAID).propose(9))
    for room, nodes in ((1, 4), (2, 12), (3, 20), (4, 23), (5, 25)):
        cut = begin(tiny.drafter("eagle"), tiny.target, prompt, SAID).propose(room)
        assert paths(cut) == whole[:nodes]


@torch.inference_mode()
def test_a_chain_is_the_best_guess_of_the_best_guess(
    tiny: Any, prompt: Prompt, begin: Any, retell: Any, paths: Any
) -> None:
    drafter = replace(tiny.drafter("eagle"), shape="chain", depth=5)
    draft = begin(drafter, tiny.target, prompt, SAID).propose(99)
    assert draft.is_chain and len(draft) == 5 and not drafter.needs.trees
    told, path = retell(tiny.head("eagle"), tiny.target, prompt, SAID), ()
    for _ in range(5):
        path = (*path, told.children(path, 1)[0][0])
    assert paths(draft)[-1] == path
    assert len(begin(drafter, tiny.target, prompt, SAID).propose(2)) == 2


@pytest.mark.parametrize("shape", ["static", "chain"])
@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=0.8, seed=3), Sampling(temperature=1.1, top_k=2, seed=4)]
)
@torch.inference_mode()
def test_drawn_children_carry_the_law_they_were_drawn_from(
    shape: str, sampling: Sampling, tiny: Any, prompt: Prompt, begin: Any, retell: Any, paths: Any
) -> None:
    """Given the elder siblings: the head's own distribution without them, normalised anew.

    Where a filter leaves fewer tokens than the tree has children, the rest are no draws but sure choices.
    """
    drafter = replace(tiny.drafter("eagle"), shape=shape, sampling=sampling)
    draft = begin(drafter, tiny.target, prompt, SAID).propose(99)
    assert draft.probs is not None and torch.isfinite(draft.probs).all()
    torch.testing.assert_close(draft.probs.sum(-1), torch.ones(len(draft), dtype=torch.float64))
    told, elders = retell(tiny.head("eagle"), tiny.target, prompt, SAID), {}
    exhausted = 0
    for node, path in enumerate(paths(draft)):
        law = process_logits(told.logits(path[:-1])[None], sampling)[0].softmax(-1)
        before = elders.setdefault(path[:-1], [])
        assert path[-1] not in before, "no child twice"
        law[before] = 0
        before.append(path[-1])
        if law.sum() > 0:
            torch.testing.assert_close(draft.probs[node], law / law.sum(), atol=1e-5, rtol=1e-4)
        else:
            exhausted += 1
            assert draft.probs[node, path[-1]] == 1
    assert (exhausted > 0) == (shape == "static" and sampling.top_k == 2)


@torch.inference_mode()
def test_draws_depend_on_the_seed_and_the_place_alone(tiny: Any, prompt: Prompt, begin: Any) -> None:
    def drawn(seed: int, said: tuple[int, ...] = SAID) -> list[int]:
        drafter = replace(tiny.drafter("eagle"), sampling=Sampling(temperature=1.0, seed=seed))
        return begin(drafter, tiny.target, prompt, said).propose(99).tokens.tolist()  # type: ignore[no-any-return]

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(4)}) == 4


@pytest.mark.parametrize("shape", ["static", "chain"])
@pytest.mark.parametrize("top_k", [0, 3])
def test_the_law_is_the_targets(shape: str, top_k: int, lawful: Any, free_width: Any) -> None:
    """Chi-square over 500 pairs of tokens; a right implementation fails with probability 1e-6, seeds are fixed."""
    head, noise, count = lawful.head(), torch.Generator().manual_seed(1), 500
    seen = torch.zeros(25, dtype=torch.float64)
    accepted = 0
    for seed in range(count):
        sampling = Sampling(temperature=0.9, top_k=top_k, seed=seed)
        drafter = Eagle(head=head, costs=free_width, shape=shape, depth=2, sampling=sampling)
        draft = lawful.session(drafter).propose(2)
        verdict = LeviathanSampling(sampling)(draft, lawful.rows(draft), 1)
        accepted += len(verdict.path)
        text = (*draft.tokens[list(verdict.path)].tolist(), verdict.bonus)[:2]
        if len(text) == 1:  # go on as plain decoding would
            law = process_logits(lawful.p[text][None], sampling)[0].softmax(-1)
            text = (*text, int(law.multinomial(1, generator=noise)))
        seen[text[0] * 5 + text[1]] += 1
    first = process_logits(lawful.p[()][None], sampling)[0].softmax(-1)
    second = torch.stack([process_logits(lawful.p[(a,)][None], sampling)[0].softmax(-1) for a in range(5)])
    law = (first[:, None] * second).flatten()
    assert seen[law == 0].sum() == 0
    order = law.argsort(descending=True)
    large = order[law[order] * count >= 5]
    small = order[law[order] * count < 5]
    have = torch.cat((seen[large], seen[small].sum()[None])).numpy()
    want = torch.cat((law[large], law[small].sum()[None])).numpy() * count
    if want[-1] == 0:
        have, want = have[:-1], want[:-1]
    assert stats.chisquare(have, want).pvalue > 1e-6
    assert accepted > 0.3 * count, "the law is kept by taking drafts, not by refusing them"


@pytest.mark.parametrize("rule", [Greedy(), KeyedSampling(Sampling(temperature=0.8, seed=5))])
def test_drawn_or_chosen_makes_no_difference_to_other_rules(rule: Any, tiny: Any, prompt: Prompt) -> None:
    limits = Limits(max_new_tokens=20)
    alone = generate(tiny.target, tiny.drafter("none"), prompt, rule=rule, limits=limits)
    drafter = replace(tiny.drafter("eagle"), sampling=Sampling(temperature=0.8, seed=5))
    assert generate(tiny.target, drafter, prompt, rule=rule, limits=limits).tokens == alone.tokens


@pytest.mark.parametrize(("shape", "depth"), [("static", 5), ("chain", 3), ("chain", 8)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_head_that_knows_and_one_that_knows_better(
    shape: str, depth: int, sign: float, tiny: Any, prompt: Prompt, free_width: Any, oracle: Any
) -> None:
    """Perfect: depth + 1 tokens a pass. Hostile: one, and the same answer."""
    drafter = Eagle(head=oracle(tiny.target, sign), costs=free_width, shape=shape, depth=depth)
    limits = Limits(max_new_tokens=1 + 2 * (depth + 1))
    answer = generate(tiny.target, drafter, prompt, rule=Greedy(), limits=limits)
    assert answer.tau == (depth + 1 if sign > 0 else 1)
    alone = generate(tiny.target, tiny.drafter("none"), prompt, rule=Greedy(), limits=limits)
    assert answer.tokens == alone.tokens
