"""What a resolved configuration is checked for: combinations of options, parts and kinds of device that cannot work.

Every function raises UserError, in one line that names what to change. Nothing here reads an image or builds a network.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from utils.config.command_line import typed_text
from utils.config.options import DEFAULT_STREAM
from utils.config.registry import METHODS
from utils.errors import InactiveOption, UserError

if TYPE_CHECKING:
    from utils.config.configuration import Configuration

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
WORKSPACES = (":4096:8", ":16:8")  # with which cuBLAS is deterministic
_LONGEST_GROUP = 200  # bytes; file systems allow names of 255


def check(config: Configuration) -> None:
    """Raise UserError for the first mistake found in a configuration."""
    _check_boundaries(config)
    _check_required(config)
    _check_group(config.group)
    _check_optimizer(config)
    _check_measurements(config)
    _check_epochs(config)
    _check_backbone(config)
    _check_milestones(config)
    _check_schedule(config)
    _check_active(config)
    num_classes = config.values.get("num_classes") or config.parts.dataset.num_classes
    if num_classes is not None:
        config.arrangement.task_sizes(num_classes, config.seed)
    config.parts.method.check(config.values, num_classes)


def check_arithmetic(device_type: str, precision: str, fast: bool) -> None:
    """Raises UserError for arithmetic that no device of a kind has, or that is not deterministic and should be."""
    if precision == "tf32" and device_type != "cuda":
        raise UserError("--precision tf32 is arithmetic of NVIDIA GPUs; use fp32 on the CPU")
    workspace = os.environ.get(WORKSPACE, WORKSPACES[0])
    if device_type == "cuda" and not fast and workspace not in WORKSPACES:
        raise UserError(
            f"${WORKSPACE} is {workspace!r}, with which cuBLAS is not deterministic: unset it, or give --fast 1"
        )


def check_capture(word: str, uncapturable: str | None, device_type: str) -> str | None:
    """Why training steps cannot be captured on a kind of device; None if they can.

    Args:
        word: `auto`, `on` or `off`, from `--cuda_graph`.
        uncapturable: why the method's steps cannot be; None if they can.
        device_type: `cpu` or `cuda`.

    Raises:
        UserError: they are to be, and cannot.
    """
    reason = uncapturable if device_type == "cuda" else f"--device {device_type} is no GPU"
    if word == "on" and reason:
        raise UserError(f"--cuda_graph on cannot be: {reason}")
    return reason


def _check_boundaries(config: Configuration) -> None:
    """A stream whose tasks share classes suits neither every method and head nor every measurement."""
    parts = config.parts
    if parts.stream.boundaries == "sharp":
        return
    stream = f"--stream {config.stream}"
    if parts.method.needs_boundaries:
        able = [name for name in METHODS.names() if not METHODS.get(name).needs_boundaries]
        raise UserError(
            f"--model {config.model} needs tasks that share no class, and {stream} has none: use --stream "
            f"{DEFAULT_STREAM}, or another --model ({', '.join(able)})"
        )
    if parts.head != "linear":
        raise UserError(
            f"--protocol {config.protocol} adds outputs with every task, but classes of later ones come before in "
            f"{stream}: use --stream {DEFAULT_STREAM} or --protocol online"
        )
    if not config.ignore_other_metrics:
        raise UserError(f"{stream} shows images of classes before their task: forward transfer has no meaning there")
    if config.retune_norms:
        raise UserError(f"{stream}: --retune_norms measures tasks that share no class; use --stream {DEFAULT_STREAM}")
    if parts.stream.boundaries == "none":
        _check_single_pass(config)


def _check_single_pass(config: Configuration) -> None:
    """A stream without boundaries is gone through once, in its own order."""
    stream, parts = f"--stream {config.stream}", config.parts
    is_joint = not parts.method.measures_every_task(parts.head)
    if is_joint and config.arrangement.num_tasks(parts.dataset.num_classes) == 1:
        raise UserError(
            f"{stream} of one task comes in its own order, which --model {config.model} is to shuffle: give --n_tasks "
            "of at least 2"
        )
    if config.epochs > 1 and not is_joint:
        raise UserError(f"{stream} comes once, as it has no tasks that could be repeated: give --epochs 1")


def _check_required(config: Configuration) -> None:
    uses_memory = config.parts.method.uses_memory
    if uses_memory and not config.buffer_size:
        raise UserError(f"--model {config.model} replays from memory: give --buffer_size, at least 1")
    missing = [name for name, option in config.options.items() if option.required and config.values.get(name) is None]
    if missing:
        raise UserError(
            f"no published value of {' and '.join(missing)} for {config.model} on {config.dataset}"
            + (f" with --buffer_size {config.buffer_size}" if uses_memory else "")
            + f": give {' and '.join(f'--{name}' for name in missing)}"
        )


def _check_group(name: str) -> None:
    is_plain = Path(name).name == name and name not in ("", "..") and name.isprintable()
    if not is_plain or len(name.encode()) > _LONGEST_GROUP:
        raise UserError(
            f"--group must be the name of a directory inside --results_dir: at most {_LONGEST_GROUP} bytes, of "
            "printable characters without /, and neither . nor .."
        )


def _check_optimizer(config: Configuration) -> None:
    """Published learning rates and weight decays are those of SGD: other optimizers need their own."""
    if config.optimizer == "sgd":
        if config.optim_nesterov and not config.optim_mom:
            raise UserError("--optim_nesterov needs momentum: give --optim_mom above 0")
        return
    inactive = config.inactive(config.values)
    tuned = [name for name in ("lr", "second_lr", "optim_wd") if config.values.get(name) and name not in inactive]
    tuned = [name for name in tuned if config.origins[name] != "typed"]
    if tuned:
        given = " and ".join(f"--{name}" for name in tuned)
        found = " and ".join(typed_text(config.values[name]) for name in tuned) + (" are" if len(tuned) > 1 else " is")
        sources = "; ".join(dict.fromkeys(config.origins[name] for name in tuned))
        raise UserError(f"--optimizer {config.optimizer}: give {given} too; {found} for SGD ({sources})")


def _check_measurements(config: Configuration) -> None:
    """Not every head has the outputs that a measurement needs, and joint training has no tasks to measure between."""
    measures_transfer = not config.ignore_other_metrics
    if not config.parts.method.measures_every_task(config.parts.head):
        reason = f"--model {config.model} trains once, after the last task, and has nothing to measure before"
        if config.eval_every:
            raise InactiveOption("eval_every", reason)
        if measures_transfer:
            raise InactiveOption("ignore_other_metrics", reason)
    if config.parts.head != "linear" and measures_transfer:
        raise UserError(
            f"--protocol {config.protocol} adds outputs with every task, so that forward transfer "
            "(--ignore_other_metrics 0) has no outputs to measure"
        )
    if config.parts.head != "linear" and config.class_il_outputs == "all":
        raise UserError(
            f"--class_il_outputs all changes nothing: --protocol {config.protocol} adds outputs with every task, so "
            "that there are none of classes not seen; it belongs to --protocol online"
        )


def _check_epochs(config: Configuration) -> None:
    if config.budget_steps and config.debug_mode:
        raise UserError("--debug_mode cuts every epoch short, as --budget_steps does: leave out one of them")
    if config.best_epoch == "val_loss" and not config.val_fraction:
        raise UserError("--best_epoch val_loss needs held-out images: give --val_fraction above 0 or --best_epoch last")


def _check_backbone(config: Configuration) -> None:
    needed = config.parts.method.backbone_methods
    lacking = [name for name in needed if not hasattr(config.parts.backbone, name)]
    if lacking:
        raise UserError(f"--backbone {config.backbone} has no `{lacking[0]}`, which --model {config.model} calls")


def _check_schedule(config: Configuration) -> None:
    """A cosine that is an epoch late must change something, or take the place of steps."""
    if config.lr_schedule != "epoch_cosine" or config.origins["lr_schedule"] != "typed" or config.epochs > 2:
        return
    if config.lr_decay == 1 or all(milestone >= config.epochs for milestone in config.milestones):
        raise InactiveOption("lr_schedule", "epoch_cosine changes the learning rate from the third epoch on")


def _check_milestones(config: Configuration) -> None:
    milestones, epochs = config.milestones, config.epochs
    if list(milestones) != sorted(set(milestones)) or min(milestones, default=1) < 1:
        raise UserError("--milestones must be epochs of at least 1, in increasing order")
    is_typed = config.origins["milestones"] == "typed" and config.lr_schedule == "step"
    if is_typed and milestones and milestones[-1] >= epochs:
        raise UserError(f"--milestones {milestones[-1]} is never reached in --epochs {epochs}")


def _check_active(config: Configuration) -> None:
    """A typed option must change something."""
    for name, reason in config.inactive(config.values).items():
        if config.origins.get(name) == "typed":
            raise InactiveOption(name, reason)
    if not config.decay_norms and not config.parts.decays_norms(config.values):
        reason = f"--nl {config.parts.norm.name} has no parameters that are decayed with --affine 0"
        raise InactiveOption("decay_norms", reason)
