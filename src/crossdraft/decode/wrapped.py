"""A draft session behind another one: for whoever listens to a drafter, or changes what it proposes."""

from crossdraft.core.protocols import DraftSession, SeesPrompt, SharesCache, VLMSession
from crossdraft.core.types import Draft, PromptView, Step


class WrappedSession:
    """Hands everything on to ``inner``; subclasses override what they change."""

    def __init__(self, inner: DraftSession) -> None:
        self.inner = inner

    def share(self, session: VLMSession) -> None:
        """To a session that drafts on the target's own."""
        if isinstance(self.inner, SharesCache):
            self.inner.share(session)

    def see_prompt(self, view: PromptView) -> None:
        """To a session that wants them."""
        if isinstance(self.inner, SeesPrompt):
            self.inner.see_prompt(view)

    def observe(self, step: Step) -> None:
        """As ``inner`` does."""
        self.inner.observe(step)

    def propose(self, room: int) -> Draft:
        """As ``inner`` does."""
        return self.inner.propose(room)

    def finish(self) -> None:
        """As ``inner`` does."""
        self.inner.finish()
