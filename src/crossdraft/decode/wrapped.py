"""A draft session behind another one: for whoever listens to a drafter, or changes what it proposes."""

from collections.abc import Sequence

from crossdraft.core.protocols import DraftSession, SeesPromptTokens
from crossdraft.core.types import Draft, Step


class WrappedSession:
    """Hands everything on to ``inner``; subclasses override what they change."""

    def __init__(self, inner: DraftSession) -> None:
        self.inner = inner

    def prompt_tokens(self, tokens: Sequence[int]) -> None:
        """To a session that wants them."""
        if isinstance(self.inner, SeesPromptTokens):
            self.inner.prompt_tokens(tokens)

    def observe(self, step: Step) -> None:
        """As ``inner`` does."""
        self.inner.observe(step)

    def propose(self, room: int) -> Draft:
        """As ``inner`` does."""
        return self.inner.propose(room)

    def finish(self) -> None:
        """As ``inner`` does."""
        self.inner.finish()
