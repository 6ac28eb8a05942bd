"""From the command line to the configuration of one run: what was asked for, where each value came from, its identity.

Where a value comes from, first wins: typed, the whole published setting (`--load_best_args`), the preset, the
protocol, the method's published learning rate and weights, the option's own default.
"""

import argparse
import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.options import PART_OPTIONS, RUN_OPTIONS, SHARED_OPTIONS, Option, boolean
from utils.presets import PRESETS
from utils.protocols import PROTOCOLS
from utils.registry import BACKBONES, DATASETS, METHODS, NORMS, load_plugin

RESULTS_VERSION = 1  # raised when a change of the code changes numbers

_SELECTORS = {"model": METHODS, "dataset": DATASETS, "nl": NORMS, "backbone": BACKBONES}


@dataclass(frozen=True)
class Parts:
    """The classes a run is put together from, and the digests of the plug-in files they may come from."""

    method: type
    dataset: type
    norm: type
    backbone: type
    plugins: tuple[str, ...] = ()

    def options(self) -> tuple[Option, ...]:
        """The options of these parts; those that balance memory rows only if the method has some."""
        parts = (self.method, self.dataset, self.norm, self.backbone)
        options = tuple(option for part in parts for option in part.options)
        if self.method.uses_memory:
            return options + self.norm.regularizer_options
        return tuple(option for option in options if option.name not in self.norm.memory_options)


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

    def chosen(self, options: Iterable[Option]) -> dict[str, Any]:
        """The values of those of the given options that are in use."""
        return {option.name: self.values[option.name] for option in options if option.name in self.values}

    def identity(self, data_fingerprint: str) -> str:
        """SHA-256 of what the results depend on; options left at their own default do not enter it.

        So an option that is added later leaves the identity of the runs that do not use it as it was.
        """
        values = {
            name: value
            for name, value in self.parts.method.canonical(self.values).items()
            if self.options[name].changes_result and value != self.options[name].default
        }
        content = {
            "values": values,
            "data": data_fingerprint,
            "plugins": sorted(self.parts.plugins),
            "results_version": RESULTS_VERSION,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def configure(arguments: Sequence[str]) -> Configuration:
    """Read a command line.

    Raises:
        UserError: anything that the user has to change, in one line.
        SystemExit: after `--help`.
    """
    selected, plugins, wants_help = _select(arguments)
    if wants_help and not selected.get("model"):
        _parser(SHARED_OPTIONS).print_help()
        raise SystemExit(0)
    parts = _find_parts(selected, plugins)
    options = {option.name: option for option in SHARED_OPTIONS + parts.options()}
    if wants_help:
        _parser(options.values()).print_help()
        raise SystemExit(0)
    typed = _parse(arguments, options, parts)
    return _resolve(typed, selected, options, parts)


def _select(arguments: Sequence[str]) -> tuple[dict[str, Any], tuple[str, ...], bool]:
    """The names of the parts, before their options can be known."""
    parser = _parser(PART_OPTIONS)
    parser.add_argument("-h", "--help", action="store_true", dest="help")
    chosen = vars(parser.parse_known_args(list(arguments))[0])
    plugins = tuple(load_plugin(path) for path in chosen.pop("plugin", ()))
    wants_help = chosen.pop("help", False)
    if "preset" in chosen:
        chosen = _preset(chosen["preset"]) | chosen
    chosen.setdefault("nl", "BN")
    for name, registry in _SELECTORS.items():
        if name in chosen:
            chosen[name] = registry.canonical(chosen[name])
    if not wants_help:
        for name, registry in (("model", METHODS), ("dataset", DATASETS)):
            if name not in chosen:
                raise UserError(f"--{name} is missing. Known: {', '.join(registry.names())}. (Or try --preset demo.)")
    return chosen, plugins, wants_help


def _preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}. Known: {', '.join(PRESETS)}.")
    return PRESETS[name]


def _find_parts(selected: dict[str, Any], plugins: tuple[str, ...]) -> Parts:
    method = METHODS.get(selected["model"])
    if not hasattr(method, "published_setting"):
        raise UserError(f"method {selected['model']} must be a class derived from models.base.Method")
    protocol = _protocol_name(selected, method)
    selected["protocol"] = protocol
    selected.setdefault("backbone", PROTOCOLS[protocol].values["backbone"])
    dataset = DATASETS.get(selected["dataset"]) if "dataset" in selected else type("NoDataset", (), {"options": ()})
    return Parts(method, dataset, NORMS.get(selected["nl"]), BACKBONES.get(selected["backbone"]), plugins)


def _protocol_name(selected: dict[str, Any], method: type) -> str:
    name = selected.get("protocol", method.protocol)
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}. Known: {', '.join(PROTOCOLS)}.")
    if PROTOCOLS[name].head not in method.heads:
        raise UserError(
            f"--model {method.name} has no {PROTOCOLS[name].head} head, which --protocol {name} asks for; "
            f"its own protocol is {method.protocol}"
        )
    return name


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(message)


def _parser(options: Iterable[Option]) -> _Parser:
    """A parser that keeps only what was typed."""
    parser = _Parser(
        prog="python utils/main.py",
        usage="python utils/main.py --model METHOD --dataset DATASET [--nl NORM] [options]",
        description="One run of class-incremental learning, end to end.",
        epilog="\n".join(
            [
                "With --model, --dataset, --nl and --backbone, --help shows the options of these parts too.",
                *(f"--{name}: {', '.join(registry.names())}" for name, registry in _SELECTORS.items()),
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for option in options:
        spellings = [f"--{name}" for name in (option.name, *option.aliases)]
        more: dict[str, Any] = {"action": "append"} if option.name == "plugin" else {}
        if option.flag is not None:
            more |= {"nargs": "?", "const": option.flag}
        text = option.help if option.default in (None, "", False) else f"{option.help} [{option.default}]"
        parser.add_argument(
            *spellings,
            dest=option.name,
            type=_converter(option),
            help=text.replace("%", "%%"),
            metavar=_metavar(option),
            **more,
        )
    return parser


def _metavar(option: Option) -> str:
    if option.choices:
        return "{" + ",".join(option.choices) + "}"
    return "0|1" if option.type is boolean else {"int": "N", "float": "X"}.get(option.type.__name__, "VALUE")


def _converter(option: Option):
    def convert(text: str) -> Any:
        try:
            value = option.type(text)
        except ValueError as error:
            reason = str(error) if "invalid literal" not in str(error) and "could not" not in str(error) else None
            kind = {"int": "is not a whole number", "float": "is not a number"}.get(
                option.type.__name__, "is not valid"
            )
            raise argparse.ArgumentTypeError(f"{text!r} {reason or kind}") from None
        if option.choices and value not in option.choices:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(option.choices)}")
        return value

    return convert


def _parse(arguments: Sequence[str], options: dict[str, Option], parts: Parts) -> dict[str, Any]:
    typed, unknown = _parser(options.values()).parse_known_args(list(arguments))
    for word in unknown:
        if word.startswith("--"):
            raise UserError(_explain_unused(word[2:].partition("=")[0], options, parts))
    if unknown:
        raise UserError(f"{unknown[0]!r} belongs to no option")
    return vars(typed)


def _explain_unused(name: str, options: dict[str, Option], parts: Parts) -> str:
    """Why an option is not one of this run: some other part would use it, or nothing at all would."""
    users = []
    for registry in (METHODS, DATASETS, NORMS, BACKBONES):
        for part_name in registry.names():
            part = registry.get(part_name)
            declared = {spelling for option in part.options for spelling in (option.name, *option.aliases)}
            declared |= {option.name for option in getattr(part, "regularizer_options", ())}
            if name in declared:
                users.append(f"{registry.kind} {part_name}")
    if name in {*(option.name for option in parts.norm.regularizer_options), *parts.norm.memory_options}:
        replaying = [each for each in METHODS.names() if METHODS.get(each).uses_memory]
        return f"--{name} needs memory rows to balance: use a --model with memory ({', '.join(replaying)})"
    if users:
        here = f"{parts.method.name} on {parts.dataset.name} with {parts.norm.name}"
        return f"nothing in this run ({here}) uses --{name}; it belongs to {', '.join(users)}"
    close = difflib.get_close_matches(name, [*options, *(a for o in options.values() for a in o.aliases)], n=1)
    return f"unknown option --{name}." + (f" Did you mean --{close[0]}?" if close else " See --help.")


def _resolve(
    typed: dict[str, Any], selected: dict[str, Any], options: dict[str, Option], parts: Parts
) -> Configuration:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    excluded = _excluded(typed, options)
    for origin, layer in _layers(typed, selected, parts):
        for name, value in layer.items():
            if name in options and name not in values and name not in excluded and value is not None:
                values[name], origins[name] = value, origin
    for name, option in options.items():
        if name not in values:
            values[name], origins[name] = option.default, "default"
    values |= {name: selected[name] for name in ("model", "dataset", "nl", "backbone", "protocol")}
    configuration = Configuration(values, origins, options, parts)
    _complete(configuration, typed)
    _check(configuration)
    return configuration


def _excluded(typed: dict[str, Any], options: dict[str, Option]) -> set[str]:
    """Options whose defaults give way to a typed one."""
    excluded = {other for name in typed for other in options[name].excludes}
    if excluded & typed.keys():
        together = " and ".join(f"--{name}" for name in typed if name in excluded)
        raise UserError(f"{together} cannot be given together")
    return excluded


def _layers(typed: dict[str, Any], selected: dict[str, Any], parts: Parts) -> Iterable[tuple[str, dict[str, Any]]]:
    """The sources of values, the first that has one wins."""
    protocol = selected["protocol"]
    preset = PRESETS.get(selected.get("preset"), {})
    buffer_size = typed.get("buffer_size", preset.get("buffer_size"))
    setting = parts.method.published_setting(selected["dataset"], buffer_size)
    yield "typed", typed
    if typed.get("load_best_args"):
        if setting is None:
            raise UserError(
                f"--load_best_args: there is no published setting of {selected['model']} on {selected['dataset']}"
                + (f" with --buffer_size {buffer_size}" if parts.method.uses_memory else "")
            )
        yield f"published setting, {setting.source}", setting.whole
    yield f"preset {selected.get('preset')}", preset
    yield f"protocol {protocol}", PROTOCOLS[protocol].values | parts.norm.protocol_defaults.get(protocol, {})
    milestones, decay = parts.dataset.schedules.get(protocol, ((), 1.0))
    yield f"dataset {selected['dataset']}", {"milestones": milestones, "lr_decay": decay}
    if setting is not None:
        yield f"published, {setting.source}", setting.values


def _complete(configuration: Configuration, typed: dict[str, Any]) -> None:
    """Fill in what depends on other values, and make the spellings of one thing one."""
    values, origins = configuration.values, configuration.origins
    for name, spelled, value in (
        ("no_affine", "affine", False),
        ("no_task_shuffle", "class_order", "identity"),
        ("nowand", "wandb_mode", "disabled"),
    ):
        if values.pop(name) and values[spelled] != value:
            if typed.get(spelled) is not None:
                raise UserError(f"--{name} contradicts --{spelled} {typed[spelled]}; give one of them")
            values[spelled], origins[spelled] = value, f"--{name}"
    if "minibatch_size" in values and values["minibatch_size"] is None:
        values["minibatch_size"], origins["minibatch_size"] = values["batch_size"], "as --batch_size"
    if "forward" in values:
        values["forward"] = configuration.parts.method.composition(values["forward"], configuration.parts.norm)


def _check(configuration: Configuration) -> None:
    values, method = configuration.values, configuration.parts.method
    if method.uses_memory and not values["buffer_size"]:
        raise UserError(f"--model {values['model']} replays from memory: give --buffer_size, at least 1")
    missing = [
        option.name
        for option in (*RUN_OPTIONS, *configuration.parts.options())
        if option.name in values and values[option.name] is None and option.name in ("lr", *method.required)
    ]
    if missing:
        raise UserError(
            f"there is no published value of {' and '.join(missing)} for {values['model']} on {values['dataset']}"
            + (f" with --buffer_size {values['buffer_size']}" if method.uses_memory else "")
            + f": type {' and '.join(f'--{name}' for name in missing)}"
        )
    group = Path(values["group"])
    if group.is_absolute() or ".." in group.parts or len(values["group"].encode()) > 200:
        raise UserError("--group must be a short name of a folder inside --results_dir")
    if values["optim_nesterov"] and not values["optim_mom"]:
        raise UserError("--optim_nesterov needs momentum: give --optim_mom above 0")
    if not method.trains_every_task and (values["eval_every"] or not values["ignore_other_metrics"]):
        raise UserError(
            f"--model {values['model']} trains once, after the last task: --eval_every and forward transfer "
            "(--ignore_other_metrics 0) have nothing to measure before"
        )
    _check_schedule(configuration)
    _check_regularizer(configuration)


def _check_regularizer(configuration: Configuration) -> None:
    values = configuration.values
    if configuration.origins.get("ada_t0") != "typed":
        return
    num_tasks = values.get("n_tasks") or configuration.parts.dataset.num_tasks
    if not values["lambd"]:
        raise UserError("--ada_t0 changes nothing while --lambd is 0")
    if values["ada_t0"] >= num_tasks:
        raise UserError(f"--ada_t0 {values['ada_t0']} is never reached: the tasks are 0 to {num_tasks - 1}")


def _check_schedule(configuration: Configuration) -> None:
    milestones, epochs = configuration.milestones, configuration.epochs
    typed = {name for name in ("milestones", "lr_decay") if configuration.origins[name] == "typed"}
    if list(milestones) != sorted(set(milestones)) or min(milestones, default=1) < 1:
        raise UserError("--milestones must be epochs from 1 on, in rising order")
    if "milestones" in typed and milestones and milestones[-1] >= epochs:
        raise UserError(f"--milestones {milestones[-1]} is never reached in --epochs {epochs}")
    if "milestones" in typed and milestones and configuration.lr_decay == 1.0:
        raise UserError("--milestones changes nothing while the factor is 1: give --lr_decay")
    if "lr_decay" in typed and not any(milestone < epochs for milestone in milestones):
        raise UserError(f"--lr_decay is used at milestones, and none lies within --epochs {epochs}: give --milestones")


def spellings(model: str, dataset: str, norm: str, backbone: str | None = None) -> dict[str, str]:
    """Every spelling of an option that a run of these parts takes, and the option's own name."""
    method = METHODS.get(model)
    backbone = backbone or PROTOCOLS[method.protocol].values["backbone"]
    parts = Parts(method, DATASETS.get(dataset), NORMS.get(norm), BACKBONES.get(backbone))
    options = (*SHARED_OPTIONS, *parts.options())
    return {spelling: option.name for option in options for spelling in (option.name, *option.aliases)}


def data_root(typed: str | None) -> Path:
    """Where the data lies."""
    return Path(typed or os.environ.get("CL_DATA_ROOT", "data"))


def readable_name(config: Configuration) -> str:
    """Dataset, method, buffer, norm layer, epochs and seed."""
    memory = [str(config.buffer_size)] if config.parts.method.uses_memory else []
    parts = [config.dataset, config.model, *memory, config.nl, f"{config.epochs}ep", f"s{config.seed}"]
    return "-".join(parts)
