"""Holding images out of training: a fraction of each class."""

import random

import numpy as np

from utils.errors import UserError

_INSTEAD = {
    "--validation": "leave out --validation",
    "--val_fraction": "give --val_fraction 0 with --best_epoch last, or leave out --validation if it takes the rest",
}


def num_held_out(num_images: int, share: float) -> int:
    """How many of the images of a class are held out: the share, rounded; but one at least, and not all of them.

    None of a single image, or without a share.
    """
    return min(max(1, round(share * num_images)), num_images - 1) if share and num_images else 0


def hold_out(labels: np.ndarray, share: float, seed: int, option: str = "--validation") -> np.ndarray:
    """Draw the share of each class that is kept from training, label after label, as FACIL does (Masana et al., 2020).

    FACIL rounds small shares down to no image; here one is held out of every class that has two.

    Args:
        labels: [N] int64.
        share: of each class, above 0 and below 1.
        seed: of the run.
        option: what sets the share, in a message.

    Returns:
        [N] bool, True for what is held out.

    Raises:
        UserError: a class has one image only.
    """
    draws = random.Random(seed)
    is_held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        number = num_held_out(len(rows), share)
        if not number:
            raise UserError(
                f"{option} {share} holds out images of every class, but one class has a single image: give it more "
                f"images, or {_INSTEAD[option]}"
            )
        is_held_out[draws.sample(rows.tolist(), number)] = True
    return is_held_out
