"""Crop, flip and normalise a batch on its device, each image on its own, from an explicit generator."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Transform:
    """What is done to training images; test images are normalised only.

    Attributes:
        crop_padding: pixels of black border on each side, before a crop of the original size at a random place.
        flip: whether half of the images are mirrored, left to right.
        mean, std: of each channel, for images scaled to [0, 1].
    """

    crop_padding: int
    flip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]


def augment(images: Tensor, transform: Transform, generator: torch.Generator) -> Tensor:
    """Randomly cropped, flipped and normalised images.

    Draws from the generator the rows of the crops, their columns, the flips; nothing for what the transform has not.

    Args:
        images: [N, C, H, W] uint8.
        transform: what to do.
        generator: on the device of the images.

    Returns:
        [N, C, H, W] float32, on the device of the images.
    """
    num_images, padding, device = len(images), transform.crop_padding, images.device
    corners = flips = None
    if padding:
        corners = torch.randint(2 * padding + 1, (2, num_images), generator=generator, device=device)
    if transform.flip:
        flips = torch.randint(2, (num_images,), generator=generator, device=device)
    return normalise(crop_and_flip(images, padding, corners, flips), transform)


def crop_and_flip(images: Tensor, padding: int, corners: Tensor | None, flips: Tensor | None) -> Tensor:
    """Crops of the original size out of images with a black border, some of them mirrored.

    Args:
        images: [N, C, H, W], of any type.
        padding: width of the border P.
        corners: top row and left column of each crop in the padded image, [2, N] int64 in 0 to 2 P; None: uncropped.
        flips: [N] int64, 1 for images that are mirrored after the crop; None: none.

    Returns:
        [N, C, H, W], of the type of the images.
    """
    if corners is None and flips is None:
        return images
    num_images, num_channels, height, width = images.shape
    rows, columns = _grid(height, width, images.device)
    columns = columns[:1] if flips is None else columns[flips]
    if corners is not None:
        images = pad(images, (padding,) * 4)
        rows, columns = rows + corners[0, :, None], columns + corners[1, :, None]
    places = (rows * images.shape[3])[:, :, None] + columns[:, None, :]
    places = places.reshape(-1, 1, height * width).expand(num_images, num_channels, -1)
    return images.flatten(2).gather(2, places).view(num_images, num_channels, height, width)


def normalise(images: Tensor, transform: Transform) -> Tensor:
    """(x / 255 - mean) / std of uint8 images [N, C, H, W], in float32, rounded as torchvision rounds it."""
    mean, std = _constants(transform.mean, transform.std, images.device)
    return images.to(torch.float32).div_(255).sub_(mean).div_(std)


@lru_cache(maxsize=16)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation as [C, 1, 1] on a device, sent there once."""
    mean, std = (torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1) for values in (mean, std))
    return mean, std


@lru_cache(maxsize=16)
def _grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row numbers [1, H], and column numbers [2, W], from left to right and from right to left."""
    columns = torch.arange(width, device=device)
    return torch.arange(height, device=device)[None], torch.stack((columns, columns.flip(0)))
