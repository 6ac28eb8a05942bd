"""Names of the suite's parts, known without importing them.

A part's name is its file's name (`datasets/seq_cifar10.py` is `seq-cifar10`, `backbone/norm/tbbn.py` is `TBBN`). The
file is imported when its part is asked for, and registers it by decorator; a plug-in file does the same from outside.
"""

import difflib
import hashlib
import importlib
import importlib.util
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


class Registry:
    """The parts of one kind, by name.

    Args:
        kind: what a part is called in messages.
        package: the package whose files are the parts, such as `backbone.norm`.
        not_parts: files of the package that are no part.
        spell: turns a file's name into the name that is shown.
    """

    def __init__(
        self, kind: str, package: str, not_parts: tuple[str, ...] = (), spell: Callable[[str], str] = str
    ) -> None:
        self.kind = kind
        self._spell = spell
        folder = ROOT / package.replace(".", "/")
        stems = (path.stem for path in sorted(folder.glob("[a-z]*.py")) if path.stem not in not_parts)
        self._modules = {spell(stem): f"{package}.{stem}" for stem in stems}
        self._parts: dict[str, object] = {}

    def names(self) -> list[str]:
        """Every known name, plug-ins included, without importing a part."""
        return list(dict.fromkeys([*self._modules, *self._parts]))

    def canonical(self, name: str) -> str:
        """The one spelling of a name (`adab²n` is `AdaB2N`). Raises UserError, with a suggestion, if it is unknown."""
        known = {_key(candidate): candidate for candidate in self.names()}
        if _key(name) in known:
            return known[_key(name)]
        close = difflib.get_close_matches(_key(name), known, n=1, cutoff=0.5)
        hint = f" Did you mean {known[close[0]]!r}?" if close else ""
        raise UserError(f"unknown {self.kind} {name!r}.{hint} Known: {', '.join(self.names())}.")

    def get(self, name: str) -> object:
        """The part of that name, imported now if it was not before."""
        name = self.canonical(name)
        if name not in self._parts:
            importlib.import_module(self._modules[name])
        if name not in self._parts:
            raise LookupError(f"{self._modules[name]} registers no {self.kind} named {name!r}")
        return self._parts[name]

    def register(self, name: str | None = None) -> Callable:
        """Decorator that makes a class or function a part, named after its file unless a name is given."""

        def add(part):
            chosen = name or self._spell(part.__module__.rpartition(".")[2])
            taken = self._parts.get(chosen)
            if taken is not None or (chosen in self._modules and part.__module__ != self._modules[chosen]):
                raise UserError(f"{part.__module__}: the {self.kind} name {chosen!r} is taken; register under another")
            self._parts[chosen] = part
            part.name = chosen
            return part

        return add


def _key(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().replace("_", "-")


def _spell_norm(stem: str) -> str:
    return {"adab2n": "AdaB2N"}.get(stem, stem.upper())


NORMS = Registry("norm layer", "backbone.norm", not_parts=("base", "context"), spell=_spell_norm)
BACKBONES = Registry("backbone", "backbone", not_parts=("blocks",))
METHODS = Registry("method", "models", not_parts=("base", "exemplar", "heads", "kmeans"))
DATASETS = Registry("dataset", "datasets", not_parts=("arrays", "stream"), spell=lambda stem: stem.replace("_", "-"))


def load_plugin(path: str) -> str:
    """Import a user's file, which registers its parts by decorator, and give the SHA-256 of its text.

    Raises:
        UserError: the file is missing or fails to import.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"--plugin {path}: there is no such file")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    module_name = f"plugin_{file.stem}_{digest[:8]}.{file.stem}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except UserError:
            raise
        except Exception as error:
            del sys.modules[module_name]
            raise UserError(f"--plugin {path}: {type(error).__name__}: {error}") from error
    return digest
