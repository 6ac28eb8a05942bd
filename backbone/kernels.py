"""Whether a run's norm layers train with fused kernels."""

from collections.abc import Callable

import torch

from backbone.norm import use_fused_kernels
from utils.errors import UserError, is_out_of_memory


def choose_norm_kernels(word: str, device: torch.device, say: Callable[[str], None]) -> bool:
    """Let norm layers of this process train with fused kernels, or without.

    Args:
        word: `auto`, `on` or `off`, from `--fused_norms`.
        device: of the run.
        say: called with a note if the kernels are not to be had on a GPU.

    Returns:
        Whether they do.

    Raises:
        UserError: the kernels are asked for, and not to be had.
    """
    use_fused_kernels(False)
    if word == "on" and device.type != "cuda":
        raise UserError(f"--fused_norms on cannot be: --device {device.type} is no GPU")
    if word == "off" or device.type != "cuda":
        return False
    try:
        use_fused_kernels(True, device)
    except Exception as error:  # Triton's own, or of the compiler that it starts and the folder that it writes to
        if is_out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        if word == "on":
            raise UserError(
                f"--fused_norms on: Triton makes no kernels here ({reason}); use --fused_norms auto"
            ) from None
        say(f"note: norm layers train without fused kernels, as Triton makes none here ({reason})")
        return False
    return True
