"""Every option is declared once, as an `Option`: the shared ones here, a part's own beside its class."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["part", "result", "measurement", "place", "shorthand"]


@dataclass(frozen=True)
class Option:
    """One option of the command line.

    Attributes:
        name: without dashes; `aliases` are further spellings of it.
        type: turns the typed text into the value; ValueError's message is shown to the user.
        default: the value if nobody gives one; None where protocol, method, backbone or settings decide.
        help: one line, the unit in it.
        choices: the allowed values, if they are few.
        flag: may stand alone, which means this value.
        role: `part`, names a part of the run; `result`, changes what is trained; `measurement`, only what is measured
            of it; `place`, where and how a run is done, which is no part of its identity; `shorthand`, stands for
            other options and is gone when these have their values.
        excludes: options that cannot be given together with this one, whose defaults give way to it.
    """

    name: str
    type: Callable[[str], Any]
    default: Any
    help: str
    aliases: tuple[str, ...] = ()
    choices: tuple | None = None
    flag: Any = None
    role: Role = "result"
    excludes: tuple[str, ...] = ()

    @property
    def changes_result(self) -> bool:
        """Whether it is part of a run's identity."""
        return self.role in ("part", "result", "measurement")


def boolean(text: str) -> bool:
    """`1`, `true`, `yes` or `0`, `false`, `no`."""
    word = text.casefold()
    if word in ("1", "true", "yes"):
        return True
    if word in ("0", "false", "no"):
        return False
    raise ValueError("is neither 1/true nor 0/false")


def ranged(kind: type, low=None, high=None) -> Callable[[str], Any]:
    """A finite number type with inclusive bounds."""

    def parse(text: str):
        value = kind(text)
        if value != value or abs(value) == float("inf"):
            raise ValueError("must be finite")
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"from {low}" + (f" to {high}" if high is not None else "")
            raise ValueError(f"must be {bounds}")
        return value

    parse.__name__ = kind.__name__
    return parse


def flag(name: str, help: str, **more) -> Option:
    """An option that is off unless it is named; `--name 0` and `--name 1` work too."""
    return Option(name, boolean, False, help, flag=True, **more)


def whole_numbers(text: str) -> tuple[int, ...]:
    """A comma-separated list, such as `35,45`; the empty text is the empty list."""
    return tuple(int(part) for part in text.split(",") if part.strip())


def tristate(text: str) -> bool | None:
    """`auto` (None), or a truth value."""
    return None if text.casefold() == "auto" else boolean(text)


# What a run is made of. The parts named here bring their own options.
PART_OPTIONS = (
    Option("model", str, None, "the method, such as er_ace (to be given)", role="part"),
    Option("dataset", str, None, "the stream of tasks, such as seq-cifar10 (to be given)", role="part"),
    Option("nl", str, "BN", "the normalization layer, such as AdaB2N", role="part"),
    Option("backbone", str, None, "the network under the classifier (by the protocol)", role="part"),
    Option("protocol", str, None, "named set of defaults (by the method)", role="part"),
    Option("preset", str, None, "named set of options; what is typed wins (none)", role="shorthand"),
    Option("plugin", str, None, "Python file that registers more parts; may be repeated (none)", role="shorthand"),
)

RUN_OPTIONS = (
    Option("seed", ranged(int, 0, 2**31 - 1), 0, "seed of class order, weights, stream, memory and augmentation"),
    Option("epochs", ranged(int, 1), None, "epochs per task (by the protocol)", aliases=("n_epochs",)),
    Option("batch_size", ranged(int, 1), None, "images of the stream per step (by the protocol)", aliases=("bs",)),
    Option("lr", ranged(float, 0), None, "learning rate (from the published settings)"),
    Option("optim_wd", ranged(float, 0), None, "weight decay (by the protocol)"),
    Option("optim_mom", ranged(float, 0, 1), None, "momentum (by the protocol)"),
    Option("optim_nesterov", boolean, None, "Nesterov momentum (by the protocol)", flag=True),
    Option("milestones", whole_numbers, None, "epochs at which the learning rate falls (by the dataset)"),
    Option("lr_decay", ranged(float, 0, 1), None, "factor of the learning rate at a milestone (by the dataset)"),
    flag("load_best_args", "take the published multi-epoch setting whole", role="shorthand"),
    Option("affine", tristate, None, "trainable scale and shift of the norm layers: auto, true or false (auto)"),
    flag("no_affine", "the same as --affine false", role="shorthand"),
    Option("class_order", str, "protocol", "protocol, identity, seeded, icarl, imagenet100 or a list such as 3,1,0,2"),
    flag("no_task_shuffle", "the same as --class_order identity", role="shorthand"),
    Option("class_il_outputs", str, None, "outputs compared in Class-IL (by the protocol)", choices=("all", "seen")),
    Option("validation", ranged(float, 0, 0.5), 0.0, "share held out per class and tested on; alone: 0.1", flag=0.1),
    Option("val_fraction", ranged(float, 0, 0.5), 0.0, "share kept from training, for --best_epoch (by the protocol)"),
    Option("best_epoch", str, "last", "epoch whose network stays (by the protocol)", choices=("last", "val_loss")),
    Option("ignore_other_metrics", boolean, True, "0 measures forward transfer as well", flag=True, role="measurement"),
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
    Option("debug_mode", ranged(int, 0), 0, "train this many steps per epoch only, in a record kept apart; 0: off"),
    Option("precision", str, "fp32", "arithmetic of the network", choices=("fp32", "tf32", "bf16")),
    flag("fast", "give up deterministic kernels for speed"),
)

PLACE_OPTIONS = tuple(
    Option(*fields, **{"role": "place", **more})
    for *fields, more in (
        ("data_root", str, None, "where the data lies ($CL_DATA_ROOT, else data)", {}),
        ("results_dir", str, "results", "where the records go", {}),
        ("group", str, "default", "folder of the record inside --results_dir", {}),
        ("device", str, "auto", "auto, cpu, cuda or cuda:N", {}),
        ("threads", ranged(int, 1), None, "threads of the CPU ($OMP_NUM_THREADS, else 1)", {}),
        ("checkpoint_every", ranged(float, 0), 60.0, "seconds between checkpoints; 0: every step", {}),
        ("keep_checkpoint", boolean, False, "keep the checkpoint of a complete run", {"flag": True}),
        ("keep_model", boolean, True, "keep the trained weights of a complete run, model.pt", {"flag": True}),
        ("log_every", ranged(int, 1), 50, "steps between logged losses", {}),
        ("non_verbose", boolean, False, "print the results only", {"flag": True}),
        ("notes", str, "", "free text kept with the record (none)", {}),
        (
            "wandb_mode",
            str,
            "auto",
            "Weights & Biases; auto: online when logged in",
            {"choices": ("auto", "online", "offline", "disabled")},
        ),
        (
            "nowand",
            boolean,
            False,
            "the same as --wandb_mode disabled",
            {"flag": True, "aliases": ("nowandb",), "role": "shorthand"},
        ),
        ("wandb_entity", str, None, "entity at Weights & Biases (its own default)", {}),
        ("wandb_project", str, None, "project at Weights & Biases (the dataset)", {}),
        ("wandb_name", str, None, "name of the run at Weights & Biases (the record's)", {}),
    )
)

SHARED_OPTIONS = PART_OPTIONS + RUN_OPTIONS + PLACE_OPTIONS
