"""Online and offline are data: named sets of defaults that the training loop knows nothing of."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """The defaults of one way to run class-incremental learning.

    Attributes:
        heads: the kinds of classifier (`models/heads.py`); a method takes the first of its own that is among them.
        class_order: the rule that turns a seed into the order of the classes (`datasets/stream.py`).
        values: defaults of options.
        leading_metrics: the metrics that are shown first.
    """

    heads: tuple[str, ...]
    class_order: str
    values: dict[str, Any] = field(default_factory=dict)
    leading_metrics: tuple[str, ...] = ()


PROTOCOLS = {
    # Lyu et al., NeurIPS 2023, on mammoth: one epoch, small batches, one classifier over all classes.
    "online": Protocol(
        heads=("linear",),
        class_order="online",
        values={
            "backbone": "resnet18",
            "epochs": 1,
            "milestones": (),
            "lr_decay": 1.0,
            "batch_size": 10,
            "optim_wd": 0.0,
            "optim_mom": 0.0,
            "optim_nesterov": False,
            "class_il_outputs": "all",
        },
        leading_metrics=("A_f", "forgetting"),
    ),
    # Cha et al., CVPR 2023, on FACIL: many epochs, exemplars, outputs added with every task. Momentum is 0 as in the
    # published runs, also where a method was designed with 0.9.
    "offline": Protocol(
        heads=("growing", "cosine", "proxy"),
        class_order="offline",
        values={
            "backbone": "resnet32",
            "epochs": 160,
            "milestones": (80, 120),
            "lr": 0.1,
            "lr_decay": 0.1,
            "batch_size": 64,
            "buffer_size": 2000,
            "optim_wd": 1e-4,
            "optim_mom": 0.0,
            "optim_nesterov": False,
            "class_il_outputs": "seen",
            "val_fraction": 0.1,
            "best_epoch": "val_loss",
        },
        leading_metrics=("A_f", "A_a", "F", "A_l"),
    ),
}
