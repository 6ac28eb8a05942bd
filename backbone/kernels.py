"""Whether a run's norm layers train with fused kernels."""

from collections.abc import Callable

import torch

from backbone.norm import use_fused_kernels
from utils.errors import UserError, is_out_of_memory

_MAKERS = {"cuda": "Triton", "cpu": "the C++ compiler"}


def choose_norm_kernels(word: str, device: torch.device, say: Callable[[str], None]) -> bool:
    """Let norm layers of this process train with fused kernels, or without.

    Args:
        word: `auto`, `on` or `off`, from `--fused_norms`.
        device: of the run.
        say: called with a note if the kernels are not to be had.

    Returns:
        Whether they do.

    Raises:
        UserError: the kernels are asked for, and not to be had.
    """
    use_fused_kernels(False)
    if word == "off":
        return False
    try:
        use_fused_kernels(True, device)
    except Exception as error:  # of what makes them, of a compiler that it starts and the folder that it writes to
        if is_out_of_memory(error):
            raise
        maker = _MAKERS[device.type]
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        if word == "on":
            raise UserError(
                f"--fused_norms on: {maker} makes no kernels here ({reason}); use --fused_norms auto"
            ) from None
        say(f"note: norm layers train without fused kernels, as {maker} makes none here ({reason})")
        return False
    return True
