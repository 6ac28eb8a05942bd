"""The options that all runs share. Every option is declared once, as an `Option` with everything known about it: those
of a part beside its class, those of the launcher beside its commands.
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
from utils.machine import MOST_THREADS

__all__ = [
    "ABSENT",
    "DEFAULT_STREAM",
    "OF_GRIDS",
    "PART_OPTIONS",
    "RUNTIME_OPTIONS",
    "SHARED_OPTIONS",
    "UNREPORTED_OPTIONS",
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

DEFAULT_STREAM = "split"

# What a run is made of. The parts named here bring their own options.
PART_OPTIONS = grouped(
    "parts",
    Option(
        "model",
        str,
        None,
        "continual-learning method, such as er_ace",
        source="from --preset",
        required=True,
        metavar="METHOD",
    ),
    Option(
        "dataset",
        str,
        None,
        "dataset that is split into tasks, such as seq-cifar10",
        source="from --preset",
        required=True,
        metavar="DATASET",
    ),
    Option("nl", str, "BN", "normalization layer, such as AdaB2N", metavar="LAYER"),
    Option("stream", str, DEFAULT_STREAM, "how the classes come: when each task brings which images", metavar="STREAM"),
    Option("backbone", str, None, "network below the classifier", source="set by the protocol", metavar="BACKBONE"),
    Option(
        "protocol",
        str,
        None,
        "named set of defaults: online or offline",
        source="set by the method",
        metavar="PROTOCOL",
    ),
    role="part",
) + grouped(
    "parts",
    Option(
        "preset",
        str,
        None,
        "named set of options; those given explicitly take precedence",
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
        role="runtime",
    ),
)

_STEPS = Condition(
    ("lr_schedule",), lambda schedule: schedule == "step", "--lr_schedule {0} has no milestones; it belongs to step"
)

_SGD = chosen("optimizer", "sgd")
_ADAM = Condition(("optimizer",), lambda name: name != "sgd", "it belongs to --optimizer adam and adamw")
_BETA = ranged(float, 0, 0.999999)

_TRAINING = grouped(
    "training",
    Option(
        "seed",
        ranged(int, 0, 2**31 - 1),
        0,
        "random seed of class order, initial weights, stream, memory and augmentation",
    ),
    Option("epochs", ranged(int, 1), None, "epochs per task", source="set by the protocol", aliases=("n_epochs",)),
    Option("batch_size", ranged(int, 1), None, "images of the stream per training step", source="set by the protocol"),
    Option(
        "bs",
        ranged(int, 1),
        None,
        "both --batch_size and, for replay methods, --minibatch_size",
        source="each has its own",
        stands_for=("batch_size", "minibatch_size"),
    ),
    published("lr", ranged(float, 0), "learning rate"),
    Option("optimizer", str, "sgd", "optimizer of every stage", choices=("sgd", "adam", "adamw")),
    Option("optim_wd", ranged(float, 0), None, "weight decay", source="set by the protocol"),
    Option(
        "decay_norms",
        boolean,
        True,
        "whether weight decay takes the norm layers' parameters too, such as scale and shift",
        flag=True,
        active_when=(above("optim_wd", 0),),
    ),
    Option(
        "optim_mom", ranged(float, 0, 1), None, "momentum of SGD", source="set by the protocol", active_when=(_SGD,)
    ),
    Option(
        "optim_nesterov",
        boolean,
        None,
        "Nesterov momentum of SGD",
        source="set by the protocol",
        flag=True,
        active_when=(_SGD,),
    ),
    Option("optim_beta1", _BETA, 0.9, "Adam: how much of the mean gradient is kept at each step", active_when=(_ADAM,)),
    Option("optim_beta2", _BETA, 0.999, "Adam: the same for the mean of its squares", active_when=(_ADAM,)),
    Option("optim_eps", ranged(float, 0), 1e-8, "Adam: added to the root of that mean", active_when=(_ADAM,)),
    Option(
        "lr_schedule",
        str,
        None,
        "learning rate of the main stage: decayed at the milestones (step), half a cosine towards 0 from step to step "
        "(cosine), or from epoch to epoch as in PODNet's program (epoch_cosine)",
        source="set by the method",
        choices=("step", "cosine", "epoch_cosine"),
    ),
    Option(
        "milestones",
        whole_numbers,
        None,
        "epochs at which the learning rate is decayed",
        source="set by the dataset",
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
        "the same as --milestones, separated by spaces: 35 45",
        source="as --milestones",
        many=True,
        stands_for=("milestones",),
        meaning=tuple,
    ),
    Option(
        "lr_decay",
        ranged(float, 0, 1),
        None,
        "factor that the learning rate is multiplied by at each milestone",
        source="set by the dataset",
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
        "epoch whose weights are kept",
        source="set by the protocol",
        choices=("last", "val_loss"),
    ),
    flag("load_best_args", "use the whole published setting, with its batch sizes and epochs", role="shorthand"),
    Option(
        "budget_steps",
        ranged(int, 0),
        0,
        "end after as many rows as this many batches have, memory's counted too, shared among the tasks; 0: off",
    ),
    Option("debug_mode", ranged(int, 0), 0, "train only this many steps per epoch, in a separate record; 0: off"),
    Option("precision", str, "fp32", "numeric precision of the network", choices=("fp32", "tf32", "bf16")),
    flag("fast", "allow nondeterministic kernels, for speed"),
)

_NORM = grouped(
    "norm layer",
    Option(
        "affine",
        tristate,
        None,
        "learnable scale and shift in the norm layers",
        source="auto: set by the norm layer and the protocol",
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
    Option(
        "validation",
        ranged(float, 0, 0.5),
        0.0,
        "fraction of each class to hold out of training and test on; without a value: 0.1",
        flag=0.1,
    ),
    Option(
        "val_fraction",
        ranged(float, 0, 0.5),
        0.0,
        "fraction of the training images to hold out for --best_epoch",
        source="set by the protocol",
    ),
    Option(
        "imbalance",
        str,
        "none",
        "long tail of training images: exp keeps fewer of each class than of the one before, in proportion",
        choices=("none", "exp"),
    ),
    Option(
        "imbalance_ratio",
        ranged(float, 1),
        100.0,
        "training images of the largest class to those of the smallest",
        active_when=(chosen("imbalance", "exp"),),
    ),
    Option(
        "imbalance_order",
        str,
        "random",
        "which classes are large: drawn by the seed, or those that come first",
        choices=("random", "head_first"),
        active_when=(chosen("imbalance", "exp"), above("imbalance_ratio", 1)),
    ),
    Option(
        "data_root",
        str,
        None,
        "directory of the datasets",
        source="$CL_DATA_ROOT, else data",
        aliases=("base_path",),
        metavar="DIR",
        role="runtime",
    ),
)

_EVALUATION = grouped(
    "evaluation",
    Option(
        "class_il_outputs",
        str,
        None,
        "outputs compared in Class-IL: all of them, or those of the classes seen",
        source="set by the protocol",
        choices=("all", "seen"),
    ),
    Option("ignore_other_metrics", boolean, True, "0 also measures forward transfer", flag=True, role="measurement"),
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
        "epochs of re-tuning the norm layers alone, on a copy, after each task; 0: off",
        role="measurement",
    ),
    Option(
        "eval_every",
        ranged(int, 0),
        0,
        "steps of the run between evaluations within tasks, for accuracies inside the stream; 0: off",
        role="measurement",
    ),
    Option(
        "eval_images",
        ranged(int, 0),
        0,
        "test images of each task that these evaluations are on, drawn by the seed; 0: all of them",
        active_when=(above("eval_every", 0),),
        role="measurement",
    ),
)

_MACHINE = grouped(
    "machine",
    Option("device", str, "auto", "device to train on: auto, cpu, cuda or cuda:N", metavar="DEVICE"),
    Option("threads", ranged(int, 1, MOST_THREADS), None, "CPU threads", source="$OMP_NUM_THREADS, else 1"),
    Option(
        "mps_percent",
        ranged(float, 1, 100),
        None,
        "percent of the multiprocessors of a GPU, of which NVIDIA's Multi-Process Service gives the run no more",
        source="$CUDA_MPS_ACTIVE_THREAD_PERCENTAGE, else all",
        metavar="PERCENT",
    ),
    Option(
        "cuda_graph",
        str,
        "auto",
        "replay training steps as CUDA graphs; auto: on a GPU, if the method and norm layer allow it",
        choices=("auto", "on", "off"),
    ),
    Option(
        "fused_norms",
        str,
        "auto",
        "train norm layers with fused kernels; auto: if Triton, or for the CPU a C++ compiler, can make them",
        choices=("auto", "on", "off"),
    ),
    role="runtime",
)


def _last_checkpoint(text: str) -> bool:
    """What mammoth takes: `last`, or as a flag."""
    if text == "task":
        raise ValueError("is not available: only the state after the last task is kept (last)")
    return text == "last" or boolean(text)


_OUTPUT = grouped(
    "output",
    Option("results_dir", str, "results", "directory of the records", aliases=("results_path",), metavar="DIR"),
    Option("group", str, "default", "subdirectory of --results_dir for the record", metavar="NAME"),
    flag("dry_run", "print the plan of the run and exit"),
    flag("rerun", "set the existing record of this run aside and start over"),
    Option("checkpoint_every", ranged(float, 0), 60.0, "seconds between checkpoints; 0: every step"),
    flag("no_lock", "do not lock the record, on file systems without locks; do not start a run twice at the same time"),
    flag("keep_checkpoint", "keep the checkpoint when the run is complete"),
    Option(
        "savecheck",
        _last_checkpoint,
        False,
        "the same as --keep_checkpoint; `last` means 1",
        flag=True,
        metavar="last|0|1",
        stands_for=("keep_checkpoint",),
    ),
    Option("keep_model", boolean, True, "keep the trained weights (model.pt) when the run is complete", flag=True),
    Option("log_every", ranged(int, 1), 50, "steps between logged losses"),
    flag("non_verbose", "print only the results"),
    Option("notes", str, "", "free text, stored in the record", source="none", metavar="TEXT"),
    role="runtime",
)

_TRACKING = grouped(
    "tracking",
    Option(
        "wandb_mode",
        str,
        "auto",
        "mode of Weights & Biases; auto: online when logged in, else disabled",
        choices=("auto", "online", "offline", "disabled"),
        role="runtime",
    ),
    sets("nowand", "wandb_mode", "disabled", "the same as --wandb_mode disabled", aliases=("nowandb",), role="runtime"),
    Option(
        "wandb_entity", str, None, "Weights & Biases entity", source="its own default", role="runtime", metavar="NAME"
    ),
    Option(
        "wandb_project", str, None, "Weights & Biases project", source="the dataset", role="runtime", metavar="NAME"
    ),
    Option(
        "wandb_name",
        str,
        None,
        "name of the run in Weights & Biases",
        source="the record's",
        role="runtime",
        metavar="NAME",
    ),
)

# Options of mammoth that would change nothing here, or something that this suite does not do.
ABSENT = {
    "num_workers": "images are kept on the device or memory-mapped, without worker processes",
    "lr_scheduler": "give --lr_schedule step, with --lr_milestones, or cosine",
    "scheduler_mode": "the learning rate changes between epochs in --lr_schedule step, between steps in cosine",
    "fitting_mode": "each task is trained for --epochs; --best_epoch val_loss keeps the best of them",
    "n_iters": "each task is trained for --epochs",
    "joint": "give --model joint",
    "eval_future": "give --enable_other_metrics 1, for forward transfer",
    "eval_epochs": "give --eval_every, in steps",
    "code_optimization": "give --precision tf32 or bf16, or --fast",
    "distributed": "a run uses one device; run.py spreads many runs over all devices",
    "disable_log": "every run has its record; see --group and --results_dir",
    "loadcheck": "the same command resumes from where it was stopped",
    "label_perc": "all images of a task have their labels",
    "noise_rate": "labels are taken from the data as they are",
}

# Options of run.py alone, by name, and what one run takes in their place.
OF_GRIDS = {
    **{"models": "--model", "datasets": "--dataset", "methods": "--nl", "seeds": "--seed", "num_seeds": "--seed"},
    **{"buffer_sizes": "--buffer_size", "keep_models": "--keep_model"},
    **dict.fromkeys(("search", "selection", "search_seeds", "yes", "json", "engine", "jobs", "runs_per_gpu"), ""),
    **dict.fromkeys(("usage_threshold", "coldsecs", "waitsecs", "timeout", "interpreter", "logdir"), ""),
    **dict.fromkeys(("partition", "account", "qos", "gres", "time", "sbatch", "setup", "runs_per_job", "no_wait"), ""),
}

SHARED_OPTIONS = PART_OPTIONS + _TRAINING + _NORM + _DATA + _EVALUATION + _MACHINE + _OUTPUT + _TRACKING
RUNTIME_OPTIONS = tuple(option for option in SHARED_OPTIONS if option.role == "runtime")
# How a run was asked for and where it was done: what it computed does not depend on these, and reports leave them out.
UNREPORTED_OPTIONS = frozenset(option.name for option in SHARED_OPTIONS if option.role in ("runtime", "shorthand"))


def role_of(name: str) -> Role:
    """The role of an option of a record, by its name.

    An option that is not shared belongs to a part, which may not be loaded: it counts as changing what is trained.
    """
    return _ROLES.get(name, "result")


_ROLES: dict[str, Role] = {option.name: option.role for option in SHARED_OPTIONS}
