"""The original study's note, recomputed: each claim beside its source, arithmetic and later measurement."""
