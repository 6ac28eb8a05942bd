"""From a grid to its cells: what the runs of each share, and the settings that are tried there, in words."""

import difflib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from utils.config.command_line import options_of
from utils.config.configuration import spellings
from utils.config.options import SHARED_OPTIONS
from utils.config.registry import BACKBONES, DATASETS, METHODS, NORMS
from utils.config.variants import VARIANTS, find_variant
from utils.errors import UserError
from utils.launch.grid import OPTION_OF_AXIS, Grid
from utils.records.selection import setting_in_words


@dataclass(frozen=True)
class Cell:
    """Everything of a cell's runs but the seed, in words.

    Attributes:
        parts: method, dataset and norm layer.
        axes: further axes of the grid.
        settings: the searched options of each setting.
        further: what is the same for all runs of the grid.
    """

    parts: tuple[str, ...]
    axes: tuple[str, ...]
    settings: tuple[tuple[str, ...], ...]
    further: tuple[str, ...]

    def words(self, setting: tuple[str, ...], seed: int, held_out: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The command line of a run after `utils/main.py`."""
        return (*self.parts, "--seed", str(seed), *self.axes, *setting, *self.further, *held_out)


def make_cells(grid: Grid, extras: Mapping[str, Sequence[str]], used: set[str]) -> Iterator[Cell]:
    """Every cell, with the options that its parts use; notes which of `extras` and of the axes are used."""
    for dataset, model, method, epochs in itertools.product(grid.datasets, grid.models, grid.methods, grid.epochs):
        variant = find_variant(method)
        fixed = {**dict(_named_words(grid.fixed)), **extras, **variant.words}
        accepted = spellings(model, dataset, variant.norm, next(iter(fixed.get("backbone", [])), None))
        used.update(extras.keys() & accepted.keys())
        further = {accepted[name]: words for name, words in fixed.items() if name in accepted}
        dataset_name = DATASETS.canonical(dataset)
        axes = {"buffer_size": grid.buffer_sizes, **grid.searched}
        values = {
            name: grid.values(axis, dataset_name)
            for name, axis in axes.items()
            if name in accepted and name not in further and grid.values(axis, dataset_name)
        }
        used.update(values)
        parts = ("--model", METHODS.canonical(model), "--dataset", dataset_name, "--nl", NORMS.canonical(variant.norm))
        buffers = list(_words({"buffer_size": values.pop("buffer_size")}) if "buffer_size" in values else [()])
        is_left_out = epochs is None or (grid.epochs_are_online and _protocol(model, fixed) != "online")
        own_epochs = () if is_left_out else ("--epochs", str(epochs))
        for buffer in buffers:
            yield Cell(
                parts=parts,
                axes=(*own_epochs, *buffer),
                settings=tuple(_words(values)),
                further=tuple(word for name, words in further.items() for word in (f"--{name}", *words)),
            )


def _protocol(model: str, typed: Mapping[str, Sequence[str]]) -> str:
    """The protocol in force, by the typed options or the method's own."""
    return next(iter(typed.get("protocol", ())), METHODS.get(model).protocol)


def _words(axes: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, ...]]:
    """Every combination of the axes' values, in words."""
    for chosen in itertools.product(*axes.values()):
        yield tuple(word for name, value in zip(axes, chosen, strict=True) for word in (f"--{name}", str(value)))


def setting_text(setting: Sequence[str]) -> str:
    """`--kappa 0.4 --lambd 1.0` as `kappa 0.4, lambd 1.0`."""
    pairs = zip(setting[::2], setting[1::2], strict=True)
    return setting_in_words({name.removeprefix("--"): value for name, value in pairs})


def _named_words(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """`--nf 16 --fast` as [("nf", ["16"]), ("fast", [])].

    Raises:
        UserError: a word that belongs to no option.
    """
    named: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            named.append((name, [value] if equals else []))
        elif named:
            named[-1][1].append(word)
        else:
            raise UserError(f"{word!r} belongs to no option")
    return named


def read_extras(words: Sequence[str]) -> dict[str, list[str]]:
    """Options of the runs that are none of the launcher's, by the name that was typed; `--plugin` may be repeated."""
    extras: dict[str, list[str]] = {}
    for name, values in _named_words(words):
        extras[name] = [*extras[name], "--plugin", *values] if name == "plugin" and name in extras else values
    return extras


def explain_unused(name: str, launcher_options: Iterable[str]) -> str:
    """Why an option is not one of any run of a plan: other parts would use it, or it is misspelled.

    Args:
        name: of the option, without dashes.
        launcher_options: the launcher's own names, which may have been meant.
    """
    users: dict[str, list[str]] = defaultdict(list)
    for registry in (METHODS, DATASETS, NORMS, BACKBONES):
        for part_name in registry.names():
            part = registry.get(part_name)
            for option in options_of(part):
                for spelling in (option.name, *option.aliases):
                    users[spelling].append(f"{registry.kind} {part_name}")
    option = OPTION_OF_AXIS.get(name, name)
    if option in users:
        return f"no run of this plan uses --{name}; it belongs to {', '.join(dict.fromkeys(users[option]))}"
    shared = (spelling for option in SHARED_OPTIONS for spelling in (option.name, *option.aliases))
    close = difflib.get_close_matches(name, dict.fromkeys([*launcher_options, *shared, *users]), n=1)
    return f"no run of this plan uses --{name}" + (f". Did you mean --{close[0]}?" if close else "; see --help")


def known_parts() -> dict[str, list[str]]:
    """The names that the axes take."""
    norms = [*NORMS.names(), *VARIANTS]
    return {"models": METHODS.names(), "datasets": DATASETS.names(), "methods": norms, "backbone": BACKBONES.names()}
