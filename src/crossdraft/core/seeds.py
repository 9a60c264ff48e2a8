"""One generator per purpose, all from one seed, so that drafting never disturbs acceptance."""

import hashlib

import torch


def seed_for(seed: int, purpose: str) -> int:
    """A 63-bit seed for ``purpose``; different purposes are independent."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for ``purpose``."""
    return torch.Generator(device=device).manual_seed(seed_for(seed, purpose))
