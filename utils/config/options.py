"""Every option is declared once, as an `Option`, with all that is to be known of it: the shared ones of a run here, a
part's own beside its class, the launcher's beside its commands.
"""

from operator import not_

from backbone.norm.options import (
    Condition,
    Option,
    Role,
    above,
    boolean,
    changed,
    chosen,
    flag,
    grouped,
    published,
    ranged,
    sets,
    tristate,
    whole_numbers,
)

__all__ = [
    "ABSENT",
    "PART_OPTIONS",
    "PLACE_OPTIONS",
    "SHARED_OPTIONS",
    "TELLING_NOTHING",
    "Condition",
    "Option",
    "Role",
    "above",
    "boolean",
    "changed",
    "chosen",
    "flag",
    "grouped",
    "published",
    "ranged",
    "role_of",
    "sets",
    "tristate",
    "whole_numbers",
]

# What a run is made of. The parts named here bring their own options.
PART_OPTIONS = grouped(
    "parts",
    Option("model", str, None, "the method, such as er_ace", source="by --preset", required=True, metavar="METHOD"),
    Option(
        "dataset",
        str,
        None,
        "the stream of tasks, such as seq-cifar10",
        source="by --preset",
        required=True,
        metavar="DATASET",
    ),
    Option("nl", str, "BN", "the normalization layer, such as AdaB2N", metavar="LAYER"),
    Option("backbone", str, None, "the network under the classifier", source="by the protocol", metavar="BACKBONE"),
    Option("protocol", str, None, "named set of defaults", source="by the method", metavar="PROTOCOL"),
    role="part",
) + grouped(
    "parts",
    Option(
        "preset",
        str,
        None,
        "named set of options; what is typed wins",
        source="none",
        role="shorthand",
        metavar="PRESET",
    ),
    Option(
        "plugin",
        str,
        None,
        "Python file that registers more parts; may be repeated",
        source="none",
        metavar="FILE",
        many=True,
        role="place",
    ),
)

_STEPS = Condition(
    ("method.schedule", "model"),
    lambda schedule, model: schedule == "steps",
    "--model {1} has a {0} schedule without milestones",
)

_TRAINING = grouped(
    "training",
    Option("seed", ranged(int, 0, 2**31 - 1), 0, "seed of class order, weights, stream, memory and augmentation"),
    Option("epochs", ranged(int, 1), None, "epochs per task", source="by the protocol", aliases=("n_epochs",)),
    Option("batch_size", ranged(int, 1), None, "images of the stream per step", source="by the protocol"),
    Option(
        "bs",
        ranged(int, 1),
        None,
        "both --batch_size and, where memory is replayed, --minibatch_size",
        source="each has its own",
        stands_for=("batch_size", "minibatch_size"),
    ),
    published("lr", ranged(float, 0), "learning rate"),
    Option("optim_wd", ranged(float, 0), None, "weight decay", source="by the protocol"),
    Option("optim_mom", ranged(float, 0, 1), None, "momentum", source="by the protocol"),
    Option("optim_nesterov", boolean, None, "Nesterov momentum", source="by the protocol", flag=True),
    Option(
        "milestones",
        whole_numbers,
        None,
        "epochs at which the learning rate falls",
        source="by the dataset",
        metavar="N,N,...",
        active_when=(
            _STEPS,
            Condition(
                ("milestones", "lr_decay"),
                lambda milestones, lr_decay: not milestones or lr_decay != 1,
                "its factor is 1; give --lr_decay",
            ),
        ),
        always_in_identity=True,
    ),
    Option(
        "lr_milestones",
        ranged(int, 1),
        None,
        "the same as --milestones, with blanks between them: 35 45",
        source="as --milestones",
        many=True,
        stands_for=("milestones",),
        meaning=tuple,
    ),
    Option(
        "lr_decay",
        ranged(float, 0, 1),
        None,
        "factor of the learning rate at a milestone",
        source="by the dataset",
        aliases=("sched_multistep_lr_gamma",),
        active_when=(
            _STEPS,
            Condition(
                ("epochs", "milestones"),
                lambda epochs, milestones: any(milestone < epochs for milestone in milestones),
                "no milestone lies within --epochs {0}; give --milestones",
            ),
        ),
        always_in_identity=True,
    ),
    Option(
        "best_epoch",
        str,
        "last",
        "epoch whose network stays",
        source="by the protocol",
        choices=("last", "val_loss"),
    ),
    flag("load_best_args", "take the published multi-epoch setting whole", role="shorthand"),
    Option("debug_mode", ranged(int, 0), 0, "train this many steps per epoch only, in a record kept apart; 0: off"),
    Option("precision", str, "fp32", "arithmetic of the network", choices=("fp32", "tf32", "bf16")),
    flag("fast", "give up deterministic kernels for speed"),
)

_NORM = grouped(
    "norm layer",
    Option(
        "affine",
        tristate,
        None,
        "trainable scale and shift of the norm layers: auto, true or false",
        source="auto: by the norm layer and the protocol",
        metavar="auto|true|false",
    ),
    sets("no_affine", "affine", False, "the same as --affine false"),
)

_DATA = grouped(
    "data",
    Option(
        "class_order",
        str,
        "protocol",
        "protocol, identity, seeded, icarl, imagenet100 or a list such as 3,1,0,2",
        aliases=("custom_class_order",),
        metavar="ORDER",
    ),
    sets("no_task_shuffle", "class_order", "identity", "the same as --class_order identity"),
    Option(
        "permute_classes",
        boolean,
        None,
        "1: the same as --class_order seeded, 0: identity",
        source="as --class_order",
        flag=True,
        stands_for=("class_order",),
        meaning=lambda permute: "seeded" if permute else "identity",
    ),
    Option("validation", ranged(float, 0, 0.5), 0.0, "share held out per class and tested on; alone: 0.1", flag=0.1),
    Option(
        "val_fraction",
        ranged(float, 0, 0.5),
        0.0,
        "share kept from training, for --best_epoch",
        source="by the protocol",
    ),
    Option(
        "data_root",
        str,
        None,
        "where the data lies",
        source="$CL_DATA_ROOT, else data",
        aliases=("base_path",),
        metavar="DIR",
        role="place",
    ),
)

_EVALUATION = grouped(
    "evaluation",
    Option(
        "class_il_outputs",
        str,
        None,
        "outputs compared in Class-IL",
        source="by the protocol",
        choices=("all", "seen"),
    ),
    Option("ignore_other_metrics", boolean, True, "0 measures forward transfer as well", flag=True, role="measurement"),
    flag(
        "enable_other_metrics",
        "the same as --ignore_other_metrics 0",
        role="measurement",
        stands_for=("ignore_other_metrics",),
        meaning=not_,
    ),
    Option(
        "retune_norms",
        ranged(int, 0),
        0,
        "epochs of the norm layers alone, on a copy after each task; 0: off",
        role="measurement",
    ),
    Option(
        "eval_every",
        ranged(int, 0),
        0,
        "steps between evaluations inside a task, for anytime accuracy; 0: none",
        role="measurement",
    ),
)

_MACHINE = grouped(
    "machine",
    Option("device", str, "auto", "auto, cpu, cuda or cuda:N", metavar="DEVICE"),
    Option("threads", ranged(int, 1), None, "threads of the CPU", source="$OMP_NUM_THREADS, else 1"),
    role="place",
)


def _last_checkpoint(text: str) -> bool:
    """What mammoth takes: `last`, or as a flag."""
    if text == "task":
        raise ValueError("is not to be had: one state is kept, that after the last task (last)")
    return text == "last" or boolean(text)


_OUTPUT = grouped(
    "output",
    Option("results_dir", str, "results", "where the records go", aliases=("results_path",), metavar="DIR"),
    Option("group", str, "default", "folder of the record inside --results_dir", metavar="NAME"),
    flag("dry_run", "print what the run would be, and stop"),
    flag("rerun", "set the record of this run aside and run anew"),
    Option("checkpoint_every", ranged(float, 0), 60.0, "seconds between checkpoints; 0: every step"),
    flag("no_lock", "write without a lock, where the file system has none; start each run once at a time"),
    flag("keep_checkpoint", "keep the checkpoint of a complete run"),
    Option(
        "savecheck",
        _last_checkpoint,
        False,
        "as --keep_checkpoint, which `last` means as well",
        flag=True,
        metavar="last|0|1",
        stands_for=("keep_checkpoint",),
    ),
    Option("keep_model", boolean, True, "keep the trained weights of a complete run, model.pt", flag=True),
    Option("log_every", ranged(int, 1), 50, "steps between logged losses"),
    flag("non_verbose", "print the results only"),
    Option("notes", str, "", "free text kept with the record", source="none", metavar="TEXT"),
    role="place",
)

_TRACKING = grouped(
    "tracking",
    Option(
        "wandb_mode",
        str,
        "auto",
        "Weights & Biases; auto: online when logged in",
        choices=("auto", "online", "offline", "disabled"),
        role="place",
    ),
    sets("nowand", "wandb_mode", "disabled", "the same as --wandb_mode disabled", aliases=("nowandb",), role="place"),
    Option(
        "wandb_entity", str, None, "entity at Weights & Biases", source="its own default", role="place", metavar="NAME"
    ),
    Option(
        "wandb_project", str, None, "project at Weights & Biases", source="the dataset", role="place", metavar="NAME"
    ),
    Option(
        "wandb_name",
        str,
        None,
        "name of the run at Weights & Biases",
        source="the record's",
        role="place",
        metavar="NAME",
    ),
)

# Options of mammoth that would change nothing here, or something that this suite does not do.
ABSENT = {
    "num_workers": "images lie on the device, or are read from a file in place, without worker processes",
    "optimizer": "every method is trained by SGD; see --optim_mom, --optim_wd and --optim_nesterov",
    "lr_scheduler": "the learning rate falls at --lr_milestones",
    "scheduler_mode": "the learning rate changes between epochs",
    "fitting_mode": "a task is trained for --epochs; --best_epoch val_loss keeps the best of them",
    "n_iters": "a task is trained for --epochs",
    "joint": "give --model joint",
    "eval_future": "give --enable_other_metrics 1, for forward transfer",
    "eval_epochs": "give --eval_every, in steps",
    "code_optimization": "give --precision tf32 or bf16, or --fast",
    "distributed": "a run has one device; run.py uses all devices for many runs",
    "disable_log": "every run has its record; see --group and --results_dir",
    "loadcheck": "the same command goes on from where it was stopped",
    "label_perc": "all images of a task have their labels",
    "noise_rate": "labels are as the data has them",
}

SHARED_OPTIONS = PART_OPTIONS + _TRAINING + _NORM + _DATA + _EVALUATION + _MACHINE + _OUTPUT + _TRACKING
PLACE_OPTIONS = tuple(option for option in SHARED_OPTIONS if option.role == "place")
# How a run was asked for and done, which tells nothing of what it computed.
TELLING_NOTHING = frozenset(option.name for option in SHARED_OPTIONS if option.role in ("place", "shorthand"))


def role_of(name: str) -> Role:
    """What a value of a record is to its run, by the option's name.

    An option that is not shared is one of a part, which need not be loaded: it changes what is trained.
    """
    return _ROLES.get(name, "result")


_ROLES: dict[str, Role] = {option.name: option.role for option in SHARED_OPTIONS}
