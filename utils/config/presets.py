"""Named sets of options of one run, which takes those that its parts have; whatever is typed wins."""

from typing import Any

# Half of CIFAR-100 first, then five tasks of ten classes; 20 exemplars of each class from the first task on. Give
# `--classes_per_task 5` for ten tasks after the first.
_HALF_FIRST = {
    "dataset": "seq-cifar100",
    "first_task_classes": 50,
    "classes_per_task": 10,
    "buffer_size": 2000,
    "quota": "fixed",
    "exemplar_selection": "icarl",
    "reherd": False,
    "batching": "union",
    "batch_size": 128,
    "epochs": 160,
    "optim_mom": 0.9,
    "optim_wd": 5e-4,
    "val_fraction": 0.0,
    "best_epoch": "last",
}

PRESETS: dict[str, dict[str, Any]] = {
    # A first result in seconds on any machine, on the embedded digits, in a width that four groups divide; a cell of
    # the grid of that name.
    "demo": {
        "model": "er_ace",
        "dataset": "seq-digits",
        "nl": "AdaB2N",
        "num_groups": 4,
        "nf": 8,
        "buffer_size": 500,
        "batch_size": 32,
        "minibatch_size": 32,
        "epochs": 4,
        "lr": 0.1,
        "lr_schedule": "cosine",
    },
    # Hou et al., CVPR 2019, section 4 and their program (e5a90ae), but for the imprinting of new class weights, which
    # no method here does. The order is that of their seed 1993.
    "lucir-b50": {
        **_HALF_FIRST,
        "model": "lucir",
        "cifar_crop": "shift",
        "class_order": "imagenet100",
        "lr": 0.1,
        "milestones": (80, 120),
        "lr_decay": 0.1,
        "lucir_lambda": 5.0,
        "lucir_margin": 0.5,
        "lucir_rivals": 2,
    },
    # Douillard et al., ECCV 2020, and their program (c09fc54): its first class order, with `--fixed-memory`.
    "podnet-b50": {
        **_HALF_FIRST,
        "model": "podnet",
        "class_order": "icarl",
        "lr": 0.1,
        "milestones": (),
        "lr_decay": 1.0,
        "second_epochs": 20,
        "second_lr": 0.05,
        "podnet_lambda_f": 1.0,
        "podnet_lambda_c": 3.0,
    },
}
