"""One request on our decoder: a cache, a root and the rows of the last pass."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from crossdraft.cache.dense import DenseCache
from crossdraft.core.errors import SettingError
from crossdraft.core.types import Draft, PromptView, Scores
from crossdraft.nn.engine import Engine


class DecoderSession:
    """Implements ``core.protocols.VLMSession`` over an engine and a cache that holds the prompt already.

    first: the target's opinion after the prompt, logits (1, V), and the captured states there {layer: (1, D)}.
    prompt: what was read; its states are those of ``capture``, which may change from pass to pass.
    """

    def __init__(
        self,
        engine: Engine,
        cache: DenseCache,
        first: Scores,
        prompt: PromptView,
        capture: tuple[int, ...] = (),
    ) -> None:
        self._engine, self._cache, self.capture = engine, cache, capture
        self.first, self.prompt = first, prompt
        self._root: int | None = None
        self._rows = 0

    @property
    def length(self) -> int:
        """Cached positions, the root not counted."""
        return self._cache.length

    def score(self, draft: Draft) -> Scores:
        """One pass over the root and the draft. SettingError before the first root, or when the cache is full."""
        if self._root is None:
            raise SettingError("nothing to score yet: commit((), first_token) sets the first root")
        tokens = torch.empty(len(draft) + 1, dtype=torch.long)
        tokens[0] = self._root
        tokens[1:] = draft.tokens
        parents = None if draft.is_chain else draft.parents.tolist()
        result = self._engine.score(tokens, self._cache, parents, self.capture)
        self._rows = len(tokens)
        return Scores(result.logits, result.states)

    def sketch(self, drafted: Sequence[int], skip: frozenset[int]) -> Float[Tensor, "1 V"]:
        """As ``core.protocols.Sketches``: the root and ``drafted``, guessed without the attention of ``skip``."""
        if self._root is None:
            raise SettingError("nothing to go on from yet: commit((), first_token) sets the first root")
        token = drafted[-1] if drafted else self._root
        return self._engine.sketch(token, self._cache, len(drafted), skip)

    def commit(self, path: Sequence[int], bonus: int) -> None:
        """Keep the root and ``path``, make ``bonus`` the new root. SettingError when nothing was scored."""
        if self._rows:
            self._cache.commit([0, *(node + 1 for node in path)])
        elif self._root is not None or len(path):
            raise SettingError("commit without a scored pass")
        self._root, self._rows = int(bonus), 0

    def mark(self) -> tuple[int, int | None]:
        """Committed length and root."""
        return self._cache.length, self._root

    def rewind(self, mark: tuple[int, int | None]) -> None:
        """Back to ``mark``; what was scored and not committed is dropped."""
        length, self._root = mark
        self._cache.truncate(length)
        self._rows = 0

    def reroot(self, token: int) -> None:
        """Replace the root. SettingError when there is none, or a pass over it waits for its commit."""
        if self._root is None or self._rows:
            raise SettingError("a root can be replaced only before a pass over it")
        self._root = int(token)
