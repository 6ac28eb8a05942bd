"""Names: those that readers see in place of typed ones (`ER-ACE` for `er_ace`), and names as files can have them."""

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from utils.config.registry import known_names
from utils.errors import UserError
from utils.records.metrics import MAIN_METRIC

# As papers write them; the page, `table.tex` and the plots show them by default.
PUBLISHED_NAMES = {
    **{"seq-cifar10": "Split CIFAR-10", "seq-cifar100": "Split CIFAR-100", "seq-miniimg": "Split Mini-ImageNet"},
    **{"seq-tinyimg": "Split Tiny-ImageNet", "seq-imagenet100": "Split ImageNet-100", "seq-digits": "Split Digits"},
    **{"sgd": "SGD", "joint": "Joint", "er": "ER", "der": "DER", "derpp": "DER++", "er_ace": "ER-ACE", "ft": "FT"},
    **{"lwf": "LwF", "eeil": "EEIL", "icarl": "iCaRL", "lucir": "LUCIR", "podnet": "PODNet", "ssil": "SS-IL"},
    **{"afc": "AFC", "AdaB2N": "AdaB²N"},
}

_LITERATURE = "published"  # in place of the names of other groups
_LONGEST = 100  # characters of a name that stay in the name of a file


# -- Names that readers see -------------------------------------------------------------------------------------------


def read_names(path: Path, known: Iterable[str]) -> dict[str, str]:
    """Names by what they stand for, from a JSON object or a CSV file of two columns.

    Args:
        path: of the file.
        known: what may be named.

    Raises:
        UserError: the file cannot be read, or names something unknown.
    """
    how = 'a JSON object such as {"er_ace": "ER-ACE"}, or a .csv file of two columns, name and title'
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = dict(csv.reader(text.splitlines())) if path.suffix.lower() == ".csv" else json.loads(text)
    except OSError as error:
        raise UserError(f"--names {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"--names {path} must be {how}") from None
    if not (isinstance(found, dict) and all(isinstance(title, str) and title.strip() for title in found.values())):
        raise UserError(f"--names {path} must be {how}")
    names = known_names("name in --names", found, known)
    return {name: " ".join(title.split()) for name, title in zip(names, found.values(), strict=True)}


def shown(names: Mapping[str, str], name: object) -> str:
    """What a reader sees for a name."""
    return names.get(str(name), str(name))


# -- Names of files ---------------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """What UTF-8 cannot hold, such as of a folder's or a user's name, as its number."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def file_stem(title: str) -> str:
    """A title as the name of a file: no two share one, as a digest distinguishes what a file name cannot hold."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", title)
    return _shortened(plain, title, is_whole=plain == title.replace(" ", "-"))


def comparison_file(others: Sequence[str], metric: str = MAIN_METRIC) -> str:
    """Such as `compare-published.md`, `compare-a+b.md` or, of another metric, `compare-a.forgetting.md`.

    No two comparisons of a group share a name.

    Args:
        others: the groups that the first one is compared with; none: the literature.
        metric: its name in the records.
    """
    plain = [re.sub("[^A-Za-z0-9_-]+", "-", name) for name in others]
    parts = [
        part if part == name and name != _LITERATURE else f"{part}~{_digest(name)}"
        for part, name in zip(plain, others, strict=True)
    ]
    compared = "+".join(parts) or _LITERATURE
    return f"compare-{_shortened(compared, compared)}{'' if metric == MAIN_METRIC else f'.{metric}'}.md"


def _shortened(name: str, full: str, is_whole: bool = True) -> str:
    """A name, with a digest of the full one where it is too long or not whole."""
    return name if is_whole and len(name) <= _LONGEST else f"{name[:_LONGEST]}~{_digest(full)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:8]
