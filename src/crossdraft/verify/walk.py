"""Following the target's own tokens down a draft; shared by the rules that judge chosen (not drawn) drafts."""

from jaxtyping import Float, Int
from torch import Tensor

from crossdraft.core.errors import SettingError
from crossdraft.core.tree import descend
from crossdraft.core.types import Draft, Verdict


def check_rows(draft: Draft, logits: Float[Tensor, "S V"]) -> None:
    """SettingError unless there is one row of logits for the root and one for every node."""
    if logits.shape[0] != len(draft) + 1:
        raise SettingError(
            f"a draft of {len(draft)} nodes needs {len(draft) + 1} rows of logits, got {logits.shape[0]}"
        )


def follow(draft: Draft, own: Int[Tensor, "S"]) -> Verdict:
    """Walk down while some child is the token that the target itself chose there.

    own: the target's choice after the root and after every node, on the CPU. For a chain this is one comparison,
    without a loop over tokens.
    """
    if not len(draft):
        return Verdict((), int(own[0]))
    if draft.is_chain:
        accepted = int((own[:-1] == draft.tokens).cumprod(0).sum())
        return Verdict(tuple(range(accepted)), int(own[accepted]))
    # the first of several equal siblings wins; their subtrees may differ, the emitted text cannot
    choice: list[int] = own.tolist()
    path = descend(draft.tokens, draft.parents, lambda node: choice[node + 1])
    return Verdict(tuple(path), choice[path[-1] + 1 if path else 0])
