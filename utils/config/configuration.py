"""From the command line to the configuration of one run: what was asked for, where each value came from, its identity.

Where a value comes from, first wins: typed, the whole published setting (`--load_best_args`), the preset, the method's
published setting, the dataset's and then the protocol's default, the option's own default.
"""

import hashlib
import inspect
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from backbone.norm.errors import NormError
from utils.config.code import unreleased_code
from utils.config.command_line import (
    PROGRAM,
    SELECTORS,
    make_parser,
    options_of,
    parse,
    parse_known,
    part_parser,
    typed_text,
)
from utils.config.options import SHARED_OPTIONS, Option, changed
from utils.config.parts import BackbonePart, DatasetPart, MethodPart, NormPart, Part, StreamPart
from utils.config.presets import PRESETS
from utils.config.protocols import PROTOCOLS
from utils.config.registry import BACKBONES, DATASETS, METHODS, NORMS, STREAMS, as_user_errors, check_known, load_plugin
from utils.errors import InactiveOption, UserError

SPLIT = "split"  # the stream of a run that names none
RESULTS_VERSION = 3  # raised when a change of the code changes numbers


def _with_headings(parts: Mapping[str, type[Part]]) -> Iterable[Option]:
    """The options of parts, by their kind, under the heading of `--help` that names the part."""
    for kind, part in parts.items():
        for option in options_of(part):
            yield replace(option, group=option.group or f"{kind} {part.name}")


@dataclass(frozen=True)
class Parts:
    """The classes a run is put together from.

    Attributes:
        method, dataset, stream, norm, backbone: what the names stand for.
        head: the kind of classifier (`models/heads.py`).
    """

    method: type[MethodPart]
    dataset: type[DatasetPart]
    stream: type[StreamPart]
    norm: type[NormPart]
    backbone: type[BackbonePart]
    head: str

    @property
    def unreleased_code(self) -> tuple[str, ...]:
        """Digests of the code of these parts that is not as released (`utils/config/code.py`)."""
        return unreleased_code((self.method, self.dataset, self.stream, self.norm, self.backbone))

    def options(self) -> tuple[Option, ...]:
        """The options of these parts; those that need rows of memory only if the method has some."""
        method = self.method
        kinds = {
            METHODS.kind: method,
            DATASETS.kind: self.dataset,
            STREAMS.kind: self.stream,
            NORMS.kind: self.norm,
            BACKBONES.kind: self.backbone,
        }
        found = [option for option in _with_headings(kinds) if method.uses_memory or not option.needs_memory]
        if getattr(self.dataset, "task_sizes", None) is None:
            found = list(changed(found, n_tasks={"default": getattr(self.dataset, "num_tasks", None)}))
        if getattr(method, "replays_in_first_task", True):
            return tuple(found)
        return tuple(replace(option, min_tasks=max(option.min_tasks, 1 + option.needs_memory)) for option in found)

    def transforms(self, protocol: str) -> str:
        """Which of the dataset's transforms are used: the method's own, where the dataset has them."""
        own = self.method.transforms
        return own if own is not None and own in self.dataset.transforms else protocol

    def facts(self, values: Mapping[str, Any], options: Iterable[Option]) -> dict[str, Any]:
        """What the conditions of options (`utils.config.options.Condition`) may name beside the values of options."""
        facts: dict[str, Any] = {"num_tasks": self.arrangement(values).num_tasks(self.dataset.num_classes)}
        if "protocol" in values:
            facts["transforms"] = self.transforms(values["protocol"])
        for name in (name for option in options for condition in option.active_when for name in condition.of):
            part, dot, attribute = name.partition(".")
            if dot and hasattr(getattr(self, part), attribute):
                facts[name] = getattr(getattr(self, part), attribute)
        return facts

    def arrangement(self, values: Mapping[str, Any]) -> StreamPart:
        """When which images come, in a run with these values."""
        options = {option.name: values[option.name] for option in self.stream.options if option.name in values}
        return self.stream(self.dataset, **options)

    def norm_layer(self, values: Mapping[str, Any], num_features: int, spatial_size: int) -> NormPart:
        """A norm layer of a run with these values, for two tasks. Raises NormError if it cannot have these channels."""
        more = {"num_tasks": 2} if "num_tasks" in inspect.signature(self.norm).parameters else {}
        options = {option.name: values[option.name] for option in self.norm.options if option.name in values}
        return self.norm(num_features, spatial_size=spatial_size, affine=values["affine"], **options, **more)

    def decays_norms(self, values: Mapping[str, Any]) -> bool:
        """Whether norm layers have parameters that weight decay takes; so it is taken where that cannot be told."""
        try:
            layer = self.norm_layer(values, 64, 8)
        except NormError:
            return True
        layer.take_relu()
        return any(name not in layer.undecayed for name, _ in layer.named_parameters())

    def order_rule(self, protocol: str) -> str:
        """The rule for the order of the classes that the protocol stands for."""
        return self.dataset.class_orders.get(protocol, PROTOCOLS[protocol].class_order)


@dataclass(frozen=True)
class Configuration:
    """The resolved values of one run, readable as attributes.

    Attributes:
        values: value of every option in use.
        origins: where each value came from.
        options: the declaration of each.
        parts: the classes that the names stand for.
    """

    values: dict[str, Any]
    origins: dict[str, str]
    options: dict[str, Option] = field(repr=False)
    parts: Parts = field(repr=False)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(f"this run has no option {name!r}") from None

    @property
    def arrangement(self) -> StreamPart:
        """Which classes each task brings, and when every image comes."""
        return self.parts.arrangement(self.values)

    def chosen(self, options: Iterable[Option]) -> dict[str, Any]:
        """The values of those of the given options that are in use."""
        return {option.name: self.values[option.name] for option in options if option.name in self.values}

    def used(self, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The values that the result depends on or that say where it goes, equal computations made one.

        Args:
            values: of a run with these parts; None: of this one.
        """
        values = self.values if values is None else values
        inactive = self.inactive(values)
        counting = {
            name: value
            for name, value in values.items()
            if name not in inactive or self.options[name].always_in_identity
        }
        if counting.get("imbalance_ratio") == 1:  # every class keeps its images, as without a long tail
            counting = {name: value for name, value in counting.items() if name != "imbalance_ratio"}
            counting["imbalance"] = "none"
        counting = self.parts.stream.identity_values(counting, self.parts.dataset)
        return self.parts.method.identity_values(counting, self.parts.backbone)

    def inactive(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Options that change nothing beside the others, by name, and why, in words."""
        known = dict(values) | self.parts.facts(values, self.options.values())
        reasons = {name: option.inactive_because(known) for name, option in self.options.items() if name in values}
        return {name: reason for name, reason in reasons.items() if reason}

    def identity(self, data_fingerprint: str) -> str:
        """SHA-256 of what the results depend on; options left at their own default do not enter it.

        So an option that is added later leaves the identity of the runs that do not use it as it was.
        """
        values = {
            name: value
            for name, value in self.used().items()
            if self.options[name].changes_result and value != self.options[name].default
        }
        content = {
            "values": values,
            "data": data_fingerprint,
            "plugins": self.parts.unreleased_code,
            "results_version": RESULTS_VERSION,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@as_user_errors()
def configure(arguments: Sequence[str]) -> Configuration:
    """Read a command line.

    Raises:
        UserError: anything that the user has to change, in one line.
        SystemExit: after `--help`.
    """
    selected, wants_help = _select(arguments)
    if wants_help:
        _show_help(arguments, selected)
        raise SystemExit(0)
    parts = _find_parts(selected)
    options = {option.name: option for option in SHARED_OPTIONS + parts.options()}
    typed = parse(arguments, options, parts)
    configuration = _resolve(typed, selected, options, parts)
    _check(configuration)
    return configuration


def _show_help(arguments: Sequence[str], selected: dict[str, Any]) -> None:
    """Print the options of the parts that are named, with the values in force as far as these parts decide them."""
    if "model" not in selected:
        named = {
            registry.kind: registry.get(selected[name]) for name, registry in SELECTORS.items() if name in selected
        }
        make_parser((*SHARED_OPTIONS, *_with_headings(named)), **PROGRAM).print_help()
        return
    parts = _find_parts(selected)
    options = {option.name: option for option in SHARED_OPTIONS + parts.options()}
    typed, _ = parse_known(arguments, options)
    if "dataset" not in selected:
        typed.pop("load_best_args", None)  # what is stored is so by dataset
    configuration = _resolve(typed, selected, options, parts)
    shown, sources = {}, set()
    for name, origin in configuration.origins.items():
        if origin != "default" and configuration.values.get(name) is not None:
            kind, _, source = origin.partition(", ")
            shown[name] = f"[{typed_text(configuration.values[name]) or 'none'}, {kind}]"
            sources.add(f"{kind}: {source}" if source else "")
    make_parser(options.values(), defaults=shown, epilog="\n".join(sorted(sources)), **PROGRAM).print_help()


@as_user_errors()
def restore(values: Mapping[str, Any], origins: Mapping[str, str]) -> Configuration:
    """The configuration of a record, from what its `config.json` holds.

    Raises:
        UserError: a part or a plug-in file is not there any more.
    """
    for path in values.get("plugin") or ():
        load_plugin(path)
    method = METHODS.get(values["model"])
    head = _protocol_and_head(values, method)[1]
    parts = _parts_named({"stream": SPLIT} | dict(values), method, DATASETS.get(values["dataset"]), head)
    options = {option.name: option for option in SHARED_OPTIONS + parts.options()}
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return Configuration(plain, dict(origins), options, parts)


def _select(arguments: Sequence[str]) -> tuple[dict[str, Any], bool]:
    """The names of the parts, before their options can be known."""
    chosen = vars(part_parser().parse_known_args(list(arguments))[0])
    for path in chosen.pop("plugin", ()):
        load_plugin(path)
    wants_help = chosen.pop("help", False)
    if "preset" in chosen:
        chosen = _preset(chosen["preset"]) | chosen
    for name, registry in SELECTORS.items():
        if name in chosen:
            chosen[name] = registry.known_name(chosen[name])
    if not wants_help:
        for name, registry in (("model", METHODS), ("dataset", DATASETS)):
            if name not in chosen:
                raise UserError(f"--{name} is missing. Known: {', '.join(registry.names())}. (Or try --preset demo.)")
    return chosen, wants_help


def _preset(name: str) -> dict[str, Any]:
    check_known("preset", [name], PRESETS)
    return PRESETS[name]


def _find_parts(selected: dict[str, Any]) -> Parts:
    method = METHODS.get(selected["model"])
    selected.setdefault("nl", "BN")
    selected.setdefault("stream", SPLIT)
    protocol, head = _protocol_and_head(selected, method)
    selected["protocol"] = protocol
    dataset: Any = DATASETS.get(selected["dataset"]) if "dataset" in selected else _NoDataset
    selected.setdefault("backbone", _default_backbone(method, dataset, protocol))
    return _parts_named(selected, method, dataset, head)


def _parts_named(names: Mapping[str, str], method: type[MethodPart], dataset: type[DatasetPart], head: str) -> Parts:
    """The parts of a run by the names of stream, norm layer and backbone."""
    return Parts(
        method, dataset, STREAMS.get(names["stream"]), NORMS.get(names["nl"]), BACKBONES.get(names["backbone"]), head
    )


class _NoDataset:
    """Stands for the dataset in a help text before one is chosen."""

    name = ""
    options = ()
    num_classes = None
    class_orders: ClassVar[dict[str, str]] = {}
    protocol_values: ClassVar[dict[str, Any]] = {}


def _protocol_and_head(selected: Mapping[str, Any], method: type[MethodPart]) -> tuple[str, str]:
    name = selected.get("protocol") or method.protocol
    check_known("protocol", [name], PROTOCOLS)
    heads = [head for head in method.heads if head in PROTOCOLS[name].heads]
    if not heads:
        raise UserError(
            f"--model {method.name} has no {' or '.join(PROTOCOLS[name].heads)} head, which --protocol {name} asks "
            f"for; its own protocol is {method.protocol}"
        )
    return name, heads[0]


def _default_backbone(method: type[MethodPart], dataset: type[DatasetPart], protocol: str) -> str:
    """The published one of the method on the dataset, else the dataset's, else the protocol's."""
    setting = method.published_setting(dataset.name, None, protocol)
    layers = (setting.values if setting else {}, dataset.protocol_values.get(protocol, {}), PROTOCOLS[protocol].values)
    return next(layer["backbone"] for layer in layers if "backbone" in layer)


def _resolve(
    typed: dict[str, Any], selected: dict[str, Any], options: dict[str, Option], parts: Parts
) -> Configuration:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    typed = _spelled_out(typed, options)
    excluded = _excluded(typed, options)
    made_for: dict[str, int | None] = {}  # epochs that a value stands beside
    for origin, layer in _layers(typed, selected, parts):
        for name, value in layer.items():
            if name in options and name not in values and name not in excluded and value is not None:
                values[name], origins[name], made_for[name] = value, origin, layer.get("epochs")
    for name, option in options.items():
        if name not in values and not option.stands_for:
            values[name], origins[name] = None if name in excluded else option.default, "default"
    values |= {name: selected.get(name) for name in (*SELECTORS, "protocol")}
    _scale_schedules(values, origins, made_for)
    configuration = Configuration(values, origins, options, parts)
    _complete(configuration)
    return configuration


def _scale_schedules(values: dict[str, Any], origins: dict[str, str], made_for: dict[str, int | None]) -> None:
    """Bring milestones and a second stage to the number of epochs in force, unless they were typed."""
    epochs = values["epochs"]
    if origins["milestones"] != "typed" and made_for.get("milestones"):
        values["milestones"] = scaled_milestones(values["milestones"], epochs / made_for["milestones"])
    second = values.get("second_epochs")
    main = made_for.get("second_epochs") or PROTOCOLS[values["protocol"]].values["epochs"]
    if second is not None and origins["second_epochs"] != "typed" and main != epochs:
        values["second_epochs"] = max(1, int(second * epochs / main + 0.5))
        origins["second_epochs"] += f", {second} after {main} epochs, in proportion"


def scaled_milestones(milestones: Sequence[int], factor: float) -> tuple[int, ...]:
    """Milestones for another number of epochs, in proportion; those that fall on no epoch are left out."""
    if factor == 1:
        return tuple(milestones)
    return tuple(sorted({int(milestone * factor + 0.5) for milestone in milestones} - {0}))


def _spelled_out(typed: dict[str, Any], options: dict[str, Option]) -> dict[str, Any]:
    """What was typed, with the options that others stand for in place of these."""
    own = {name: value for name, value in typed.items() if not options[name].stands_for}
    found = dict(own)
    for name, value in typed.items():
        meaning = options[name].meaning
        if name in own or (meant := meaning(value) if meaning else value) is None:
            continue
        for target in options[name].stands_for:
            if found.get(target) is not None:
                raise UserError(f"--{name} gives --{target} its value too: leave out one of them")
            if target in options:
                found[target] = meant
    return found


def _excluded(typed: dict[str, Any], options: dict[str, Option]) -> set[str]:
    """Options whose defaults give way to a typed one."""
    excluded = {other for name in typed for other in options[name].excludes}
    if excluded & typed.keys():
        together = " and ".join(f"--{name}" for name in typed if name in excluded)
        raise UserError(f"{together} cannot be given together")
    return excluded


def _layers(typed: dict[str, Any], selected: dict[str, Any], parts: Parts) -> Iterable[tuple[str, dict[str, Any]]]:
    """The sources of values, the first that has one wins."""
    protocol, dataset = selected["protocol"], parts.dataset.name
    preset = PRESETS.get(selected.get("preset", ""), {})
    buffer_size = typed.get("buffer_size", preset.get("buffer_size"))
    setting = parts.method.published_setting(dataset, buffer_size, protocol)
    yield "typed", typed
    if typed.get("load_best_args"):
        if setting is None:
            raise UserError(
                f"--load_best_args: no published setting of {selected['model']} on {dataset}"
                + (f" with --buffer_size {buffer_size}" if parts.method.uses_memory else "")
            )
        yield f"published setting, {setting.source}", setting.whole
    yield f"preset {selected.get('preset')}", preset
    if setting is not None:
        yield f"published, {setting.source}", setting.values
    yield f"dataset {dataset}", parts.dataset.protocol_values.get(protocol, {})
    yield f"protocol {protocol}", PROTOCOLS[protocol].values | parts.norm.protocol_defaults.get(protocol, {})


def _complete(configuration: Configuration) -> None:
    """Fill in what depends on other values, and make the spellings of one thing one."""
    values, origins = configuration.values, configuration.origins
    own_order = configuration.parts.order_rule(values["protocol"])
    if values["class_order"] in (own_order, {"offline": "seeded"}.get(own_order)):
        values["class_order"] = "protocol"
    if "minibatch_size" in values and values["minibatch_size"] is None:
        values["minibatch_size"], origins["minibatch_size"] = values["batch_size"], "as --batch_size"
    if values["lr_schedule"] is None:
        values["lr_schedule"] = configuration.parts.method.schedule
    values |= configuration.parts.method.resolve_auto(values, configuration.parts.norm)


def _check(configuration: Configuration) -> None:
    values, method = configuration.values, configuration.parts.method
    _check_boundaries(configuration)
    if method.uses_memory and not values["buffer_size"]:
        raise UserError(f"--model {values['model']} replays from memory: give --buffer_size, at least 1")
    missing = [name for name, option in configuration.options.items() if option.required and values.get(name) is None]
    if missing:
        raise UserError(
            f"no published value of {' and '.join(missing)} for {values['model']} on {values['dataset']}"
            + (f" with --buffer_size {values['buffer_size']}" if method.uses_memory else "")
            + f": give {' and '.join(f'--{name}' for name in missing)}"
        )
    group = values["group"]
    if Path(group).name != group or group in ("", "..") or not group.isprintable() or len(group.encode()) > 200:
        raise UserError("--group must be the short name of a directory inside --results_dir")
    _check_optimizer(configuration)
    if not method.measures_every_task(configuration.parts.head):
        reason = f"--model {values['model']} trains once, after the last task, and has nothing to measure before"
        if values["eval_every"]:
            raise InactiveOption("eval_every", reason)
        if not values["ignore_other_metrics"]:
            raise InactiveOption("ignore_other_metrics", reason)
    if configuration.parts.head != "linear" and not values["ignore_other_metrics"]:
        raise UserError(
            f"--protocol {values['protocol']} adds outputs with every task, so that forward transfer "
            "(--ignore_other_metrics 0) has no outputs to measure"
        )
    if configuration.parts.head != "linear" and values["class_il_outputs"] == "all":
        raise UserError(
            f"--class_il_outputs all changes nothing: --protocol {values['protocol']} adds outputs with every task, so "
            "that there are none of classes not seen; it belongs to --protocol online"
        )
    if values["budget_steps"] and values["debug_mode"]:
        raise UserError("--debug_mode cuts every epoch short, as --budget_steps does: leave out one of them")
    if values["best_epoch"] == "val_loss" and not values["val_fraction"]:
        raise UserError("--best_epoch val_loss needs held-out images: give --val_fraction above 0 or --best_epoch last")
    lacking = [name for name in method.backbone_methods if not hasattr(configuration.parts.backbone, name)]
    if lacking:
        raise UserError(f"--backbone {values['backbone']} has no `{lacking[0]}`, which --model {values['model']} calls")
    _check_schedule(configuration)
    _check_active(configuration)
    num_classes = values.get("num_classes") or configuration.parts.dataset.num_classes
    if num_classes is not None:
        configuration.arrangement.task_sizes(num_classes, values["seed"])
    method.check(values, num_classes)


def _check_boundaries(configuration: Configuration) -> None:
    values, parts = configuration.values, configuration.parts
    if parts.stream.boundaries == "sharp":
        return
    stream = f"--stream {values['stream']}"
    if parts.method.needs_boundaries:
        able = [name for name in METHODS.names() if not METHODS.get(name).needs_boundaries]
        raise UserError(
            f"--model {values['model']} needs tasks that share no class, and {stream} has none: use --stream {SPLIT}, "
            f"or another --model ({', '.join(able)})"
        )
    if parts.head != "linear":
        raise UserError(
            f"--protocol {values['protocol']} adds outputs with every task, but classes of later ones come before in "
            f"{stream}: use --stream {SPLIT} or --protocol online"
        )
    if not values["ignore_other_metrics"]:
        raise UserError(f"{stream} shows images of classes before their task: forward transfer has no meaning there")
    if values["retune_norms"]:
        raise UserError(f"{stream}: --retune_norms measures tasks that share no class; use --stream {SPLIT}")
    if parts.stream.boundaries != "none":
        return
    is_joint = not parts.method.measures_every_task(parts.head)
    if is_joint and configuration.arrangement.num_tasks(parts.dataset.num_classes) == 1:
        raise UserError(
            f"{stream} of one task comes in its own order, which --model {values['model']} is to shuffle: give "
            "--n_tasks of at least 2"
        )
    if values["epochs"] > 1 and not is_joint:
        raise UserError(f"{stream} comes once, as it has no tasks that could be repeated: give --epochs 1")


def _check_optimizer(configuration: Configuration) -> None:
    values, origins = configuration.values, configuration.origins
    if values["optimizer"] == "sgd":
        if values["optim_nesterov"] and not values["optim_mom"]:
            raise UserError("--optim_nesterov needs momentum: give --optim_mom above 0")
        return
    inactive = configuration.inactive(values)
    tuned = [name for name in ("lr", "second_lr", "optim_wd") if values.get(name) and name not in inactive]
    tuned = [name for name in tuned if origins[name] != "typed"]
    if tuned:
        given = " and ".join(f"--{name}" for name in tuned)
        found = " and ".join(typed_text(values[name]) for name in tuned) + (" are" if len(tuned) > 1 else " is")
        sources = "; ".join(dict.fromkeys(origins[name] for name in tuned))
        raise UserError(f"--optimizer {values['optimizer']}: give {given} too; {found} for SGD ({sources})")


def _check_active(configuration: Configuration) -> None:
    values, norm = configuration.values, configuration.parts.norm
    for name, reason in configuration.inactive(configuration.values).items():
        if configuration.origins.get(name) == "typed":
            raise InactiveOption(name, reason)
    if not values["decay_norms"] and not configuration.parts.decays_norms(values):
        raise InactiveOption("decay_norms", f"--nl {norm.name} has no parameters that are decayed with --affine 0")


def _check_schedule(configuration: Configuration) -> None:
    milestones, epochs = configuration.milestones, configuration.epochs
    if list(milestones) != sorted(set(milestones)) or min(milestones, default=1) < 1:
        raise UserError("--milestones must be epochs of at least 1, in increasing order")
    is_typed = configuration.origins["milestones"] == "typed" and configuration.lr_schedule == "step"
    if is_typed and milestones and milestones[-1] >= epochs:
        raise UserError(f"--milestones {milestones[-1]} is never reached in --epochs {epochs}")


@as_user_errors()
def accepted_options(
    model: str, dataset: str, norm: str, backbone: str | None = None, stream: str = SPLIT
) -> dict[str, Option]:
    """The options that a run of these parts takes, by every spelling."""
    method, its_dataset = METHODS.get(model), DATASETS.get(dataset)
    backbone = backbone or _default_backbone(method, its_dataset, method.protocol)
    parts = _parts_named({"stream": stream, "nl": norm, "backbone": backbone}, method, its_dataset, method.heads[0])
    options = (*SHARED_OPTIONS, *parts.options())
    return {spelling: option for option in options for spelling in (option.name, *option.aliases)}


def data_root(typed: str | None) -> Path:
    """Where the data lies."""
    return Path(typed or os.environ.get("CL_DATA_ROOT", "data"))


_NAMED = ("dataset", "model", "buffer_size", "nl", "epochs", "seed")  # by a run's readable name


def readable_name(config: Configuration) -> str:
    """Dataset, method, buffer, norm layer, epochs and seed."""
    return f"{_name_without_seed(config)}-s{config.seed}"


def _name_without_seed(config: Configuration) -> str:
    memory = [str(config.buffer_size)] if config.parts.method.uses_memory else []
    return "-".join([config.dataset, config.model, *memory, config.nl, f"{config.epochs}ep"])


def cell_name(config: Configuration) -> str:
    """What all seeds of a run share, with the typed options that readable names lack, such as `… kappa=0.4`."""
    roles = {name: config.options[name].role for name, origin in config.origins.items() if origin == "typed"}
    telling = {name for name, role in roles.items() if role in ("part", "result")} - set(_NAMED)
    values = {name: value for name, value in config.used().items() if name in telling}
    typed = sorted(f"{name}={typed_text(value)}" for name, value in values.items())
    return " ".join([_name_without_seed(config), *typed])
