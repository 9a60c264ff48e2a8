"""Training the built-in pair from scratch on procedural scenes, and measuring what it sees.

train_nano(workdir)        # two checkpoints in the published formats
evaluate_nano()            # shares of facts that the packaged pair states right on held-out streams
"""

from crossdraft.training.nano.evaluate import evaluate_nano
from crossdraft.training.nano.pipeline import train_nano

__all__ = ["evaluate_nano", "train_nano"]
