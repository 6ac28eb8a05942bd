"""How channels are divided into groups; shared by GN and CN."""

import warnings

from .errors import NormError
from .options import Option, flag, ranged

_NUM_GROUPS = 32  # if nobody says otherwise, as Wu & He (ECCV 2018) and Pham et al. (ICLR 2022)

GROUP_OPTIONS = (
    Option(
        "num_groups",
        ranged(int, 1),
        None,
        "groups of channels",
        source="by the protocol",
        excludes=("channels_per_group",),
    ),
    Option(
        "channels_per_group",
        ranged(int, 1),
        None,
        "channels in a group",
        source="by the protocol",
        excludes=("num_groups",),
    ),
    flag("adjust_groups", "where the groups do not divide the channels, take the largest number below that does"),
)


def choose_num_groups(
    layer: str, num_features: int, num_groups: int | None, channels_per_group: int | None, adjust_groups: bool
) -> int:
    """Number of consecutive groups of equal size; a warning tells an adjusted one.

    Args:
        layer: name for messages.
        num_features: channels C.
        num_groups: groups asked for; 32 if neither this nor `channels_per_group` is given.
        channels_per_group: channels of a group asked for.
        adjust_groups: where C cannot be divided so, take the largest divisor of C that is not above.

    Raises:
        NormError: both are given, one is below 1, or C cannot be divided so.
    """
    if num_groups is not None and channels_per_group is not None:
        raise NormError(f"{layer}: num_groups and channels_per_group exclude each other; give one of them")
    if min(num_groups or 1, channels_per_group or 1) < 1 or 0 in (num_groups, channels_per_group):
        raise NormError(f"{layer}: num_groups and channels_per_group must be at least 1")
    asked = f"{num_groups or _NUM_GROUPS} groups"
    target = num_groups or _NUM_GROUPS
    exact = num_features % target == 0
    if channels_per_group is not None:
        asked = f"groups of {channels_per_group} channels"
        target = max(1, num_features // channels_per_group)
        exact = num_features % channels_per_group == 0
    if exact:
        return target
    if not adjust_groups:
        raise NormError(
            f"{layer}: {num_features} channels cannot be divided into {asked}; "
            "change num_groups or channels_per_group, or give adjust_groups"
        )
    adjusted = max(divisor for divisor in range(1, target + 1) if num_features % divisor == 0)
    warnings.warn(f"{layer}: {num_features} channels are in {adjusted} groups instead of {asked}", stacklevel=3)
    return adjusted
