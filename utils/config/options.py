"""Every option is declared once, as an `Option`, with all that is to be known of it: the shared ones of a run here, a
part's own beside its class, the launcher's beside its commands.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Role = Literal["part", "result", "measurement", "place", "shorthand"]


@dataclass(frozen=True)
class Condition:
    """What must hold for an option to change anything.

    Attributes:
        of: names of the options whose values decide. `transforms`, `num_tasks` (those of the run) and attributes of its
            parts, such as `method.schedule`, may be named too.
        holds: takes these values.
        words: what is missing where it does not hold; `{0}` stands for the first of the values.
    """

    of: tuple[str, ...]
    holds: Callable[..., bool]
    words: str

    def missing(self, values: Mapping[str, Any]) -> str:
        """What is missing, in words; empty if it holds, or if that cannot be told, as a record may lack a value."""
        if not all(name in values for name in self.of):
            return ""
        seen = [values[name] for name in self.of]
        return "" if self.holds(*seen) else self.words.format(*seen)


def above(option: str, bound: float) -> Condition:
    """The value of another option is above a bound."""
    return Condition((option,), lambda value: value > bound, f"it needs --{option} above {bound:g}")


def chosen(option: str, value: Any) -> Condition:
    """Another option has this value."""
    typed = int(value) if isinstance(value, bool) else value
    return Condition((option,), lambda found: found == value, f"it belongs to --{option} {typed}")


@dataclass(frozen=True)
class Option:
    """One option of a command line.

    Attributes:
        name: without dashes; `aliases` are further spellings of it, those of one letter with one dash.
        type: turns the typed text into the value; ValueError's message is shown to the user.
        default: the value if nobody gives one; None where something else decides.
        help: one line, the unit in it, without the default.
        source: what decides before the default does, such as `by the protocol`, or in its place where it is None.
        required: there must be a value, from `source` or typed.
        group: the heading in `--help`; empty for an option of a part, which stands under the part's name.
        choices: the allowed values, if they are few.
        flag: may stand alone, which means this value.
        many: takes one word or more, and may be repeated.
        positional: is typed without its name.
        role: `part`, names a part of the run; `result`, changes what is trained; `measurement`, only what is measured
            of it; `place`, where and how a run is done, which is no part of its identity; `shorthand`, stands for
            other options and is gone when these have their values.
        excludes: options that cannot be given together with this one, whose defaults give way to it.
        active_when: what must hold, all of it, for the option to change anything.
        min_tasks: tasks that a stream needs for the option to change anything.
        needs_memory: it changes nothing before a batch holds rows of memory.
        always_in_identity: it counts in the identity of a run also where it changes nothing.
    """

    name: str
    type: Callable[[str], Any]
    default: Any
    help: str
    source: str = ""
    required: bool = False
    group: str = ""
    aliases: tuple[str, ...] = ()
    choices: tuple | None = None
    flag: Any = None
    many: bool = False
    positional: bool = False
    role: Role = "result"
    excludes: tuple[str, ...] = ()
    active_when: tuple[Condition, ...] = ()
    min_tasks: int = 1
    needs_memory: bool = False
    always_in_identity: bool = False

    @property
    def changes_result(self) -> bool:
        """Whether it is part of a run's identity."""
        return self.role in ("part", "result", "measurement")

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every name it can be typed by, without dashes."""
        return (self.name, *self.aliases)

    def inactive_because(self, values: Mapping[str, Any]) -> str:
        """Why the option changes nothing beside these values, in words; empty if it does, or if that cannot be told.

        Args:
            values: of the options and of what else a `Condition` may name.
        """
        num_tasks = values.get("num_tasks") or values.get("n_tasks")
        if num_tasks and num_tasks < self.min_tasks:
            return f"it needs at least {self.min_tasks} tasks" + (" (--n_tasks)" if "n_tasks" in values else "")
        return next(filter(None, (condition.missing(values) for condition in self.active_when)), "")


def changed(options: Iterable[Option], **changes: Mapping[str, Any]) -> tuple[Option, ...]:
    """The options with fields of some of them changed, by the option's name: what is otherwise for one part."""
    return tuple(replace(option, **changes.get(option.name, {})) for option in options)


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


def published(name: str, type: Callable[[str], Any], help: str, **more) -> Option:
    """An option that the published settings of a method give, and that is required where there are none."""
    return Option(name, type, None, help, source="from the published settings", required=True, **more)


def whole_numbers(text: str) -> tuple[int, ...]:
    """A comma-separated list, such as `35,45`; the empty text is the empty list."""
    return tuple(int(part) for part in text.split(",") if part.strip())


def tristate(text: str) -> bool | None:
    """`auto` (None), or a truth value."""
    return None if text.casefold() == "auto" else boolean(text)


def grouped(group: str, *options: Option, **more: Any) -> tuple[Option, ...]:
    """Options under one heading of `--help`, with further fields that they share."""
    return tuple(replace(option, group=group, **more) for option in options)


# What a run is made of. The parts named here bring their own options.
PART_OPTIONS = grouped(
    "parts",
    Option("model", str, None, "the method, such as er_ace", source="by --preset", required=True),
    Option("dataset", str, None, "the stream of tasks, such as seq-cifar10", source="by --preset", required=True),
    Option("nl", str, "BN", "the normalization layer, such as AdaB2N"),
    Option("backbone", str, None, "the network under the classifier", source="by the protocol"),
    Option("protocol", str, None, "named set of defaults", source="by the method"),
    role="part",
) + grouped(
    "parts",
    Option("preset", str, None, "named set of options; what is typed wins", source="none"),
    Option("plugin", str, None, "Python file that registers more parts; may be repeated", source="none", many=True),
    role="shorthand",
)

_STEPS = Condition(("method.schedule",), lambda schedule: schedule == "steps", "the schedule of --model is a {0}")

_TRAINING = grouped(
    "training",
    Option("seed", ranged(int, 0, 2**31 - 1), 0, "seed of class order, weights, stream, memory and augmentation"),
    Option("epochs", ranged(int, 1), None, "epochs per task", source="by the protocol", aliases=("n_epochs",)),
    Option(
        "batch_size", ranged(int, 1), None, "images of the stream per step", source="by the protocol", aliases=("bs",)
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
        active_when=(
            _STEPS,
            Condition(
                ("milestones", "lr_decay"),
                lambda milestones, lr_decay: not milestones or lr_decay != 1,
                "the factor is 1: give --lr_decay",
            ),
        ),
        always_in_identity=True,
    ),
    Option(
        "lr_decay",
        ranged(float, 0, 1),
        None,
        "factor of the learning rate at a milestone",
        source="by the dataset",
        active_when=(
            _STEPS,
            Condition(
                ("epochs", "milestones"),
                lambda epochs, milestones: any(milestone < epochs for milestone in milestones),
                "it is used at milestones, and none lies within --epochs {0}: give --milestones",
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
    ),
    flag("no_affine", "the same as --affine false", role="shorthand"),
)

_DATA = grouped(
    "data",
    Option("class_order", str, "protocol", "protocol, identity, seeded, icarl, imagenet100 or a list such as 3,1,0,2"),
    flag("no_task_shuffle", "the same as --class_order identity", role="shorthand"),
    Option("validation", ranged(float, 0, 0.5), 0.0, "share held out per class and tested on; alone: 0.1", flag=0.1),
    Option(
        "val_fraction",
        ranged(float, 0, 0.5),
        0.0,
        "share kept from training, for --best_epoch",
        source="by the protocol",
    ),
    Option("data_root", str, None, "where the data lies", source="$CL_DATA_ROOT, else data", role="place"),
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
    Option("device", str, "auto", "auto, cpu, cuda or cuda:N"),
    Option("threads", ranged(int, 1), None, "threads of the CPU", source="$OMP_NUM_THREADS, else 1"),
    role="place",
)

_OUTPUT = grouped(
    "output",
    Option("results_dir", str, "results", "where the records go"),
    Option("group", str, "default", "folder of the record inside --results_dir"),
    Option("checkpoint_every", ranged(float, 0), 60.0, "seconds between checkpoints; 0: every step"),
    flag("keep_checkpoint", "keep the checkpoint of a complete run"),
    Option("keep_model", boolean, True, "keep the trained weights of a complete run, model.pt", flag=True),
    Option("log_every", ranged(int, 1), 50, "steps between logged losses"),
    flag("non_verbose", "print the results only"),
    Option("notes", str, "", "free text kept with the record", source="none"),
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
    flag("nowand", "the same as --wandb_mode disabled", aliases=("nowandb",), role="shorthand"),
    Option("wandb_entity", str, None, "entity at Weights & Biases", source="its own default", role="place"),
    Option("wandb_project", str, None, "project at Weights & Biases", source="the dataset", role="place"),
    Option("wandb_name", str, None, "name of the run at Weights & Biases", source="the record's", role="place"),
)

SHARED_OPTIONS = PART_OPTIONS + _TRAINING + _NORM + _DATA + _EVALUATION + _MACHINE + _OUTPUT + _TRACKING
PLACE_OPTIONS = tuple(option for option in SHARED_OPTIONS if option.role == "place")


def role_of(name: str) -> Role:
    """What a value of a record is to its run, by the option's name.

    An option that is not shared is one of a part, which need not be loaded: it changes what is trained.
    """
    return _ROLES.get(name, "result")


_ROLES: dict[str, Role] = {option.name: option.role for option in SHARED_OPTIONS}
