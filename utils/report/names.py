"""The names that readers see in place of those that one types: `ER-ACE` for `er_ace`."""

import csv
import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from utils.errors import UserError

# As papers write them; `table.tex` and the plots show them unless told otherwise.
PUBLISHED_NAMES = {
    **{"seq-cifar10": "Split CIFAR-10", "seq-cifar100": "Split CIFAR-100", "seq-miniimg": "Split Mini-ImageNet"},
    **{"seq-tinyimg": "Split Tiny-ImageNet", "seq-imagenet100": "Split ImageNet-100", "seq-digits": "Split Digits"},
    **{"sgd": "SGD", "joint": "Joint", "er": "ER", "der": "DER", "derpp": "DER++", "er_ace": "ER-ACE", "ft": "FT"},
    **{"lwf": "LwF", "eeil": "EEIL", "icarl": "iCaRL", "lucir": "LUCIR", "podnet": "PODNet", "ssil": "SS-IL"},
    **{"afc": "AFC", "AdaB2N": "AdaB²N"},
}


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
    check_known("--names", found, known)
    return {name: " ".join(title.split()) for name, title in found.items()}


def check_known(option: str, asked: Iterable[str], known: Iterable[str]) -> None:
    """Raises UserError, with a suggestion, if an option names what is not known."""
    names = list(dict.fromkeys(known))
    for name in asked:
        if name not in names:
            close = difflib.get_close_matches(name.casefold(), {each.casefold(): each for each in names}, n=1)
            hint = f" Did you mean {next(each for each in names if each.casefold() == close[0])!r}?" if close else ""
            raise UserError(f"{option}: unknown name {name!r}.{hint} Known: {', '.join(names)}.")


def shown(names: Mapping[str, str], name: object) -> str:
    """What a reader sees for a name."""
    return names.get(str(name), str(name))
