"""Names of parts, known without importing them, and the normalization layers by name.

A part's file is read for what it registers, imported when its part is asked for, and then registers it by decorator;
a file from outside does the same when it is imported.
"""

import difflib
import importlib
import inspect
import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import NormError

_REGISTRATION = re.compile(
    r"""^@\w+\.register\((?:["'](?P<name>[^"'\n]+)["'])?\)\n(?:@.*\n)*(?:class|def) (?P<part>\w+)""",
    re.MULTILINE,
)


class Registry:
    """The parts of one kind, by name.

    Args:
        kind: what a part is called in messages.
        package: the package whose files hold the parts, such as `models`.
        folder: where that package lies.
        spell: makes a part's name from its file's and from its own, unless it is registered under a name.
        check: raises `error` for a part that cannot be one, when it is registered.
        error: type of the errors.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        folder: Path,
        spell: Callable[[str, str], str],
        check: Callable[[Any], None] | None = None,
        error: type[ValueError] = ValueError,
    ) -> None:
        self.kind = kind
        self._package = package
        self._folder = folder
        self._spell = spell
        self._check = check
        self._error = error
        self._parts: dict[str, Any] = {}

    @cached_property
    def _modules(self) -> dict[str, str]:
        """The module of every part of the package, by the part's name."""
        return {
            found["name"] or self._spell(file.stem, found["part"]): f"{self._package}.{file.stem}"
            for file in sorted(self._folder.glob("[a-z]*.py"))
            for found in _REGISTRATION.finditer(file.read_text(encoding="utf-8"))
        }

    def names(self) -> list[str]:
        """Every known name, plug-ins included, without importing a part."""
        return list(dict.fromkeys([*self._modules, *self._parts]))

    def known_name(self, name: str) -> str:
        """The one spelling of a name (`adab²n` is `AdaB2N`). Raises an error, with a suggestion, if it is unknown."""
        if not isinstance(name, str):
            raise self._error(f"a {self.kind} is chosen by its name, as text, not by {name!r}")
        names = self.names()
        found = find_name(name, names)
        if found is None:
            raise self._error(unknown(self.kind, name, names))
        return found

    def get(self, name: str) -> Any:
        """The part of that name, imported now if it was not before."""
        name = self.known_name(name)
        if name not in self._parts:
            importlib.import_module(self._modules[name])
        if name not in self._parts:
            raise LookupError(f"{self._modules[name]} registers no {self.kind} named {name!r}")
        return self._parts[name]

    def register(self, name: str | None = None) -> Callable:
        """Decorator that makes a class or function a part, under a name of its own if one is given as text."""
        if name is not None and not isinstance(name, str):  # the part itself, which would not be registered
            shown = getattr(name, "__name__", repr(name))
            raise self._error(f"{shown}: a {self.kind} is registered by `register()`, with parentheses")

        def add(part: Any) -> Any:
            if self._check is not None:
                self._check(part)
            chosen = name or self._spell(part.__module__.rpartition(".")[2], part.__name__)
            taken = {_key(known): known for known in self.names()}.get(_key(chosen))
            if taken in self._parts or (taken and part.__module__ != self._modules[taken]):
                raise self._error(f"{part.__module__}: the {self.kind} name {taken!r} is taken; register under another")
            self._parts[chosen] = part
            part.name = chosen
            return part

        return add


def find_name(name: str, known: Iterable[str]) -> str | None:
    """The one of the known names that is meant, however it is spelled (`er-ace` is `er_ace`); None if there is none."""
    names = list(known)
    return name if name in names else {_key(each): each for each in names}.get(_key(name))


def unknown(kind: str, name: str, known: Iterable[str], *, is_listed: bool = True) -> str:
    """Such as `unknown method 'er_acee'. Did you mean 'er_ace'? Known: er, er_ace.`, what is close being suggested.

    Args:
        kind: of what is named.
        name: as it was typed; an option with its dashes.
        known: the names that there are.
        is_listed: whether they are few enough to be told.
    """
    listed = list(dict.fromkeys(known))
    names = {_key(each).lstrip("-"): each for each in listed}
    close = difflib.get_close_matches(_key(name).lstrip("-"), names, n=1)
    typed, *meant = (each if each.startswith("--") else repr(each) for each in (name, *(names[key] for key in close)))
    hint = f" Did you mean {meant[0]}?" if meant else ""
    there = f"Known: {', '.join(listed) or 'none'}." if is_listed else "See --help."
    return f"unknown {kind} {typed}.{hint} {there}"


def _key(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().replace("_", "-")


def constructor_arguments(layer: type) -> list[str]:
    """Names of what a class takes by keyword; where it hands on the rest (`**settings`), those of its base too."""
    names: dict[str, None] = {}
    for each in layer.__mro__:
        if "__init__" in vars(each):
            parameters = list(inspect.signature(vars(each)["__init__"]).parameters.values())[1:]
            names.update(dict.fromkeys(p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)))
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                break
    return list(names)


def _check_layer(layer: Any) -> None:
    from .base import Norm

    place = f"{layer.__module__}.{layer.__qualname__}"
    if not (isinstance(layer, type) and issubclass(layer, Norm)):
        raise NormError(f"{place}: a norm layer is a class derived from {Norm.__module__}.Norm")
    accepted = constructor_arguments(layer)
    for needed in ("num_features", "spatial_size", "affine"):
        if needed not in accepted:
            raise NormError(
                f"{place}: its constructor takes no {needed!r}; a norm layer is made by "
                "Layer(num_features, *, spatial_size=None, affine=True)"
            )
    if missing := sorted(layer.__abstractmethods__):
        raise NormError(f"{place} lacks the method `{missing[0]}`")
    for option in layer.options:
        if option.name not in accepted:
            raise NormError(f"{place}: its constructor takes no {option.name!r}, which it declares as an option")


NORMS = Registry(
    "norm layer",
    package=__name__.rpartition(".")[0],
    folder=Path(__file__).parent,
    spell=lambda file, layer: layer,
    check=_check_layer,
    error=NormError,
)
