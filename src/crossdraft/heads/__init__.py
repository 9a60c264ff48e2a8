"""Drafting heads: small trained networks on the target's own states, their recipes and their checkpoints."""
