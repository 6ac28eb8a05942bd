"""From the command line to the configuration of one run: what was asked for, where each value came from, its identity.

Where a value comes from, first wins: typed, the whole published setting (`--load_best_args`), the preset, the method's
published setting, the dataset's and then the protocol's default, the option's own default.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from utils.config.checks import check
from utils.config.command_line import PROGRAM, SELECTORS, make_parser, parse, parse_known, part_parser, typed_text
from utils.config.options import PART_OPTIONS, SHARED_OPTIONS, Option
from utils.config.parts import DatasetPart, MethodPart, Parts, StreamPart, under_headings
from utils.config.presets import PRESETS
from utils.config.protocols import PROTOCOLS
from utils.config.registry import (
    BACKBONES,
    DATASETS,
    METHODS,
    NORMS,
    STREAMS,
    as_user_errors,
    check_known,
    load_plugins,
)
from utils.errors import UserError

RESULTS_VERSION = 5  # raised when a change of the code changes numbers


@dataclass(frozen=True)
class Configuration:
    """The resolved options of one run, whose values can be read as attributes.

    Attributes:
        values: the value of every option, by name.
        origins: where each value came from.
        options: the declaration of each option.
        parts: the classes of the run's parts.
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
        """The stream of the run: which classes each task brings, and when each image comes."""
        return self.parts.arrangement(self.values)

    def chosen(self, options: Iterable[Option]) -> dict[str, Any]:
        """The values of the given options, without those that this run does not have."""
        return {option.name: self.values[option.name] for option in options if option.name in self.values}

    def used(self, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The values that matter: inactive options are left out, and equivalent computations get the same values.

        Args:
            values: of a run with the same parts; None: of this run.
        """
        values = self.values if values is None else values
        inactive = self.inactive(values)
        kept = {
            name: value
            for name, value in values.items()
            if name not in inactive or self.options[name].always_in_identity
        }
        if kept.get("imbalance_ratio") == 1:  # every class keeps all its images, as without a long tail
            kept = {name: value for name, value in kept.items() if name != "imbalance_ratio"}
            kept["imbalance"] = "none"
        kept = self.parts.stream.identity_values(kept, self.parts.dataset)
        return self.parts.method.identity_values(kept, self.parts.backbone)

    def inactive(self, values: Mapping[str, Any]) -> dict[str, str]:
        """The options that change nothing given the others, by name, each with the reason."""
        known = dict(values) | self.parts.facts(values, self.options.values())
        reasons = {name: option.inactive_because(known) for name, option in self.options.items() if name in values}
        return {name: reason for name, reason in reasons.items() if reason}

    def identity(self, data_fingerprint: str) -> str:
        """SHA-256 of everything that the results depend on.

        Options at their own default are left out, so that an option added later does not change the identity of runs
        that do not use it.
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
    selected = _with_defaults(selected)
    parts = _parts_of(selected)
    options = _options_by_name(parts)
    configuration = _resolve(parse(arguments, options, parts), selected, options, parts)
    check(configuration)
    return configuration


def _options_by_name(parts: Parts) -> dict[str, Option]:
    """The options of a run with these parts. Raises UserError if a part declares one that another or every run has."""
    options: dict[str, Option] = {}
    for option in SHARED_OPTIONS + parts.options():
        former = options.setdefault(option.name, option)
        if former.group != option.group:
            raise UserError(
                f"{option.group} declares an option `{option.name}`, but --{option.name} is one already, under "
                f"{former.group}: give it another name"
            )
        options[option.name] = option
    return options


def _show_help(arguments: Sequence[str], selected: Mapping[str, Any]) -> None:
    """Print the options of the parts that are named, with the values in force as far as these parts decide them."""
    if "model" not in selected:
        named = {
            registry.kind: registry.get(selected[name]) for name, registry in SELECTORS.items() if name in selected
        }
        make_parser((*SHARED_OPTIONS, *under_headings(named)), **PROGRAM).print_help()
        return
    selected = _with_defaults(selected)
    parts = _parts_of(selected)
    options = _options_by_name(parts)
    typed, _ = parse_known(arguments, options)
    if "dataset" not in selected:
        typed.pop("load_best_args", None)  # published settings are stored by dataset
    configuration = _resolve(typed, selected, options, parts)
    shown, sources = {}, set()
    for name, origin in configuration.origins.items():
        if configuration.values.get(name) is not None and (origin != "default" or options[name].source):
            kind, _, source = origin.partition(", ")
            shown[name] = f"[{typed_text(configuration.values[name]) or 'none'}, {kind}]"
            sources.add(f"{kind}: {source}" if source else "")
    make_parser(options.values(), defaults=shown, epilog="\n".join(sorted(sources)), **PROGRAM).print_help()


@as_user_errors()
def restore(values: Mapping[str, Any], origins: Mapping[str, str]) -> Configuration:
    """The configuration of a record, from what its `config.json` holds.

    Raises:
        UserError: a part or a plug-in file no longer exists.
    """
    load_plugins(values.get("plugin"))
    parts = _parts_of(_with_defaults(values))
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return Configuration(plain, dict(origins), _options_by_name(parts), parts)


# -- The parts ---------------------------------------------------------------------------------------------------------


def _select(arguments: Sequence[str]) -> tuple[dict[str, Any], bool]:
    """The names of the parts, typed or of a preset, before their options can be known; and whether help is wanted."""
    selected = vars(part_parser().parse_known_args(list(arguments))[0])
    load_plugins(selected.pop("plugin", ()))
    wants_help = selected.pop("help", False)
    if "preset" in selected:
        check_known("preset of one run", [selected["preset"]], PRESETS)
        selected = PRESETS[selected["preset"]] | selected
    for name, registry in SELECTORS.items():
        if name in selected:
            selected[name] = registry.known_name(selected[name])
    if not wants_help:
        for name, registry in (("model", METHODS), ("dataset", DATASETS)):
            if name not in selected:
                raise UserError(f"--{name} is missing. Known: {', '.join(registry.names())}. (Or try --preset demo.)")
    return selected, wants_help


def _with_defaults(selected: Mapping[str, Any]) -> dict[str, Any]:
    """The names of the parts and the protocol, with the defaults of those that were not named."""
    own = {option.name: option.default for option in PART_OPTIONS if option.default is not None}
    names = own | dict(selected)
    method = METHODS.get(names["model"])
    names["protocol"] = names.get("protocol") or method.protocol
    check_known("protocol", [names["protocol"]], PROTOCOLS)
    if "backbone" not in names:
        names["backbone"] = _default_backbone(method, _dataset_of(names), names["protocol"])
    return names


def _default_backbone(method: type[MethodPart], dataset: type[DatasetPart], protocol: str) -> str:
    """The published backbone of the method on the dataset, or else that of the dataset or the protocol."""
    setting = method.published_setting(dataset.name, None, protocol)
    layers = (setting.values if setting else {}, dataset.protocol_values.get(protocol, {}), PROTOCOLS[protocol].values)
    return next(layer["backbone"] for layer in layers if "backbone" in layer)


class _NoDataset:
    """Stands for the dataset in a help text before one is chosen."""

    name = ""
    options = ()
    num_classes = None
    class_orders: ClassVar[dict[str, str]] = {}
    protocol_values: ClassVar[dict[str, Any]] = {}


def _dataset_of(names: Mapping[str, str]) -> Any:
    return DATASETS.get(names["dataset"]) if "dataset" in names else _NoDataset


def _parts_of(names: Mapping[str, str]) -> Parts:
    """The classes that the names of all parts stand for."""
    method = METHODS.get(names["model"])
    return Parts(
        method,
        _dataset_of(names),
        STREAMS.get(names["stream"]),
        NORMS.get(names["nl"]),
        BACKBONES.get(names["backbone"]),
        _head_of(method, names["protocol"]),
    )


def _head_of(method: type[MethodPart], protocol: str) -> str:
    """The first of the method's heads that the protocol allows. Raises UserError if there is none."""
    allowed = PROTOCOLS[protocol].heads
    head = next((head for head in method.heads if head in allowed), None)
    if head is None:
        raise UserError(
            f"--model {method.name} has no {' or '.join(allowed)} head, which --protocol {protocol} asks for; its own "
            f"protocol is {method.protocol}"
        )
    return head


# -- The values --------------------------------------------------------------------------------------------------------


def _resolve(
    typed: dict[str, Any], selected: Mapping[str, Any], options: dict[str, Option], parts: Parts
) -> Configuration:
    """Give every option its value, from the first source that has one."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    shorthands = [name for name in typed if options[name].stands_for]
    typed = _without_shorthands(typed, options)
    excluded = _excluded(typed, options)
    source_epochs: dict[str, int | None] = {}  # the epochs that the source of each value gives
    for origin, layer in _layers(typed, selected, parts):
        for name, value in layer.items():
            if name in options and name not in values and name not in excluded and value is not None:
                values[name], origins[name], source_epochs[name] = value, origin, layer.get("epochs")
    for name, option in options.items():
        if name not in values and not option.stands_for:
            values[name], origins[name] = None if name in excluded else option.default, "default"
    values |= {name: selected.get(name) for name in (*SELECTORS, "protocol")}
    _scale_schedules(values, origins, source_epochs)
    configuration = Configuration(values, origins, options, parts)
    _complete(configuration)
    if shorthands:
        _excuse(shorthands, configuration)
    return configuration


def _excuse(shorthands: Iterable[str], configuration: Configuration) -> None:
    """Take what changes nothing for typed no more if it came with something that does, by an option for several."""
    inactive = configuration.inactive(configuration.values)
    for name in shorthands:
        targets = [target for target in configuration.options[name].stands_for if target in configuration.values]
        if not inactive.keys() >= set(targets):
            configuration.origins.update((target, f"--{name}") for target in targets if target in inactive)


def _scale_schedules(values: dict[str, Any], origins: dict[str, str], source_epochs: Mapping[str, int | None]) -> None:
    """Scale milestones and the second stage to the epochs in force, unless they were typed."""
    epochs = values["epochs"]
    milestone_epochs = source_epochs.get("milestones")
    if origins["milestones"] != "typed" and milestone_epochs:
        values["milestones"] = scaled_milestones(values["milestones"], epochs / milestone_epochs)
    second = values.get("second_epochs")
    main = source_epochs.get("second_epochs") or PROTOCOLS[values["protocol"]].values["epochs"]
    if second is not None and origins["second_epochs"] != "typed" and main != epochs:
        values["second_epochs"] = max(1, int(second * epochs / main + 0.5))
        origins["second_epochs"] += f", {second} after {main} epochs, in proportion"


def scaled_milestones(milestones: Sequence[int], factor: float) -> tuple[int, ...]:
    """Milestones for another number of epochs, in proportion; those that fall on no epoch are left out."""
    if factor == 1:
        return tuple(milestones)
    return tuple(sorted({int(milestone * factor + 0.5) for milestone in milestones} - {0}))


def _without_shorthands(typed: dict[str, Any], options: dict[str, Option]) -> dict[str, Any]:
    """What was typed, each shorthand such as `--bs` replaced by the options that it stands for."""
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
    """Options that get no default, as a typed one excludes them. Raises UserError if both are typed."""
    excluded = {other for name in typed for other in options[name].excludes}
    if excluded & typed.keys():
        together = " and ".join(f"--{name}" for name in typed if name in excluded)
        raise UserError(f"{together} cannot be given together")
    return excluded


def _layers(typed: dict[str, Any], selected: Mapping[str, Any], parts: Parts) -> Iterable[tuple[str, dict[str, Any]]]:
    """The sources of values, with their names; the first that has a value wins."""
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
    """Fill in values that depend on others, and give equivalent settings one spelling."""
    values, origins = configuration.values, configuration.origins
    own_order = configuration.parts.order_rule(values["protocol"])
    if values["class_order"] in (own_order, {"offline": "seeded"}.get(own_order)):
        values["class_order"] = "protocol"
    if "minibatch_size" in values and values["minibatch_size"] is None:
        values["minibatch_size"], origins["minibatch_size"] = values["batch_size"], "as --batch_size"
    if values["lr_schedule"] is None:
        values["lr_schedule"] = configuration.parts.method.schedule
    values |= configuration.parts.method.resolve_auto(values, configuration.parts.norm)


@as_user_errors()
def accepted_options(
    model: str, dataset: str, norm: str, backbone: str | None = None, stream: str | None = None
) -> dict[str, Option]:
    """The options that a run of these parts takes, by every spelling; None stands for the default part."""
    named = {"model": model, "dataset": dataset, "nl": norm, "backbone": backbone, "stream": stream}
    parts = _parts_of(_with_defaults({name: value for name, value in named.items() if value is not None}))
    options = (*SHARED_OPTIONS, *parts.options())
    return {spelling: option for option in options for spelling in (option.name, *option.aliases)}


# -- Folders and names -------------------------------------------------------------------------------------------------


def data_root(typed: str | None) -> Path:
    """The folder of the datasets: as typed, or else `$CL_DATA_ROOT` if that is not empty, or else `data`."""
    return Path(typed or os.environ.get("CL_DATA_ROOT") or "data")


_IN_NAME = ("dataset", "model", "buffer_size", "nl", "epochs", "seed")  # options that a run's readable name shows


def readable_name(config: Configuration) -> str:
    """Dataset, method, buffer size, norm layer, epochs and seed, joined by dashes."""
    return f"{_name_without_seed(config)}-s{config.seed}"


def _name_without_seed(config: Configuration) -> str:
    memory = [str(config.buffer_size)] if config.parts.method.uses_memory else []
    return "-".join([config.dataset, config.model, *memory, config.nl, f"{config.epochs}ep"])


def cell_name(config: Configuration) -> str:
    """The readable name without the seed, and the typed options that it does not show, such as `… kappa=0.4`."""
    roles = {name: config.options[name].role for name, origin in config.origins.items() if origin == "typed"}
    unshown = {name for name, role in roles.items() if role in ("part", "result")} - set(_IN_NAME)
    values = {name: value for name, value in config.used().items() if name in unshown}
    typed = sorted(f"{name}={typed_text(value)}" for name, value in values.items())
    return " ".join([_name_without_seed(config), *typed])
