"""The original study's note, recomputed: every claim beside its source, our arithmetic and what was measured later."""
