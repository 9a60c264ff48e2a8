"""Plain decoding, as a drafter: it never guesses."""

from dataclasses import dataclass
from typing import ClassVar

from crossdraft.core.prompt import Prompt
from crossdraft.core.protocols import VLM, Needs, Window
from crossdraft.core.types import Draft, Step

_NOTHING = Draft.chain([], source="none")


@dataclass(frozen=True)
class NoDraft:
    """Plain decoding: one target pass for every token, the yardstick of everything else."""

    name: ClassVar[str] = "none"
    needs: ClassVar[Needs] = Needs()

    def begin(self, prompt: Prompt, target: VLM, window: Window) -> "NoDraftSession":
        """A session without state."""
        return NoDraftSession()


class NoDraftSession:
    """Proposes nothing."""

    def observe(self, step: Step) -> None:
        """Nothing to learn."""

    def propose(self, room: int) -> Draft:
        """An empty draft."""
        return _NOTHING

    def finish(self) -> None:
        """Nothing to keep."""
