"""Whether a run's norm layers train with fused kernels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from backbone.norm import Norm, maker_of_fused_kernels, use_fused_kernels
from utils.errors import UserError, is_out_of_memory

_MAKERS = {"cuda": "Triton", "cpu": "the C++ compiler"}
_KINDS = {"cuda": "a GPU", "cpu": "the CPU"}


def word_for_start(
    word: str, environments: Sequence[Mapping[str, Any]], device: torch.device, say: Callable[[str], None]
) -> str:
    """`--fused_norms` as a start takes it: on the same kind of device, one that resumes keeps what the run began with.

    Its sums are so taken in the same order; where there are no such kernels any more, it goes on without. A run that
    began without them never has them later, so that it began with them if any of its starts had them.

    Args:
        word: `auto`, `on` or `off`, from the option.
        environments: of earlier starts, as their record describes them.
        device: of this start.
        say: called with a note if the word is not followed.
    """
    alike = [each for each in environments if (each.get("device") == "cpu") == (device.type == "cpu")]
    known = [each["fused_norms"] for each in alike if "fused_norms" in each]
    if not known:
        return word
    began = any(known)
    if began and word == "on":
        return word
    if word == ("off" if began else "on"):
        way = "with" if began else "without"
        say(f"note: --fused_norms {word} is ignored: the run resumes {way} fused kernels, as it started")
    return "auto" if began else "off"


def choose_norm_kernels(
    word: str, norm: type[Norm], precision: str, device: torch.device, say: Callable[[str], None]
) -> str | None:
    """Let norm layers of this process train with fused kernels, or without.

    Args:
        word: `auto`, `on` or `off`, from `--fused_norms`.
        norm: kind of the layers; some have no fused kernels on this kind of device, and train as they do.
        precision: of the run.
        device: of the run.
        say: called with a note if the kernels are not to be had, or are asked for where the layers have none.

    Returns:
        The compiler that has made them, with its version; None: layers train without.

    Raises:
        UserError: the kernels are asked for, and not to be had.
    """
    use_fused_kernels(False)
    if word == "off" or device.type not in norm.fused_on:
        if word == "on":
            say(f"note: --fused_norms on has no effect: {norm.name} has no fused kernels on {_KINDS[device.type]}")
        return None
    try:
        use_fused_kernels(True, device, torch.bfloat16 if precision == "bf16" else torch.float32)
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
        return None
    return maker_of_fused_kernels(device)
