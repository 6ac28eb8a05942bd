"""One seed, many independent generators: each purpose has its own, so that no part's draws move another's."""

import hashlib

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed that depends on the run's seed and on what it is for, such as ``("stream", task, epoch)``."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device`, seeded for one purpose."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))
