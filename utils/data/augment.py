"""Crop, flip, brighten and normalise a batch on its device, each image on its own.

The random changes of each image are drawn on the host, from an explicit generator, so that they are the same on every
device: a few numbers, which are sent along with the batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from utils.data.batch import rows_of
from utils.data.resized_crop import Boxes, draw_boxes, resized_crop
from utils.errors import UserError


@dataclass(frozen=True)
class Transform:
    """How training images are augmented; test images are only cropped to their centre, if `test_side` is set, and
    normalised.

    Attributes:
        crop_padding: pixels of black border on each side, before a crop at a random position.
        flip: whether half of the images are mirrored, left to right.
        mean, std: of each channel, for images scaled to [0, 1].
        resized_crop: whether the crops have a random area and aspect and are resized (`utils/data/resized_crop.py`);
            otherwise they have the size of the stored images.
        brightness: images are multiplied by a number between 1 - brightness (at least 0) and 1 + brightness.
        test_side: side of the centre of test images that is taken, and of resized crops; None: that of stored images.

    Raises:
        UserError: the values contradict each other.
    """

    crop_padding: int
    flip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resized_crop: bool = False
    brightness: float = 0.0
    test_side: int | None = None

    def __post_init__(self) -> None:
        if self.brightness < 0:
            raise UserError(f"a transform's brightness must be 0 or more, not {self.brightness}")
        if self.test_side is not None and not self.resized_crop:
            raise UserError(
                "a transform with test_side needs resized_crop, or training images are larger than test images"
            )


@dataclass(frozen=True)
class Augmentation:
    """What is done to the images of a run.

    Attributes:
        transform: of training images.
        generators: on the host, by purpose: for batches of the online stream, and for draws from memory.
        memory_format: of the images that a network gets.
    """

    transform: Transform
    generators: dict[str, torch.Generator]
    memory_format: torch.memory_format = torch.contiguous_format

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the random changes of a batch [N, C, H, W]: tensors on the host (`draw_changes`)."""
        return draw_changes(shape, self.transform, generator)

    def apply(self, raw: Tensor, changes: Mapping[str, Tensor]) -> Tensor:
        """Augmented and normalised images; the changes lie on the device of the raw ones."""
        return change(raw, self.transform, changes, self.memory_format)

    def prepare(self, raw: Tensor) -> Tensor:
        """Normalised images, for evaluation."""
        return normalise(raw, self.transform, self.memory_format)


def augment(images: Tensor, transform: Transform, generator: torch.Generator) -> Tensor:
    """Randomly cropped, flipped, brightened and normalised images.

    Args:
        images: [N, C, H, W] uint8.
        transform: what to do.
        generator: on the host.

    Returns:
        [N, C, H, W] float32, or [N, C, test_side, test_side], on the device of the images.
    """
    changes = draw_changes(images.shape, transform, generator)
    return change(images, transform, {name: values.to(images.device) for name, values in changes.items()})


def draw_changes(shape: Sequence[int], transform: Transform, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the random changes of each image of a batch.

    Takes from the generator the rows of the crops and their columns, or the boxes of resized crops; then the flips;
    then the brightness; nothing for a step that the transform does not have.

    Args:
        shape: of the batch, [N, C, H, W].
        transform: what to do.
        generator: on the host.

    Returns:
        On the host, an image's numbers in the last axis: `corners` [2, N] int64, top row and left column in the image
        with its border, or `boxes` [4, N] float32 (`resized_crop.Boxes`); `flips` [N] int64, 1 for a mirrored image;
        `factors` [N] float32, of the brightness.
    """
    num_images, height, width = shape[0], *shape[-2:]
    padding, changes = transform.crop_padding, {}
    if transform.resized_crop:
        boxes = draw_boxes(num_images, height + 2 * padding, width + 2 * padding, generator)
        changes["boxes"] = torch.stack(boxes)
    elif padding:
        changes["corners"] = torch.randint(2 * padding + 1, (2, num_images), generator=generator)
    if transform.flip:
        changes["flips"] = torch.randint(2, (num_images,), generator=generator)
    if transform.brightness:
        darkest, brightest = max(0.0, 1 - transform.brightness), 1 + transform.brightness
        changes["factors"] = darkest + (brightest - darkest) * torch.rand(num_images, generator=generator)
    return changes


def change(
    images: Tensor,
    transform: Transform,
    changes: Mapping[str, Tensor],
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Crop, flip, brighten and normalise images [N, C, H, W] uint8 as was drawn (`draw_changes`)."""
    flips = changes.get("flips")
    if transform.resized_crop:
        images = _resized(images, transform, Boxes(*changes["boxes"]), flips)
    else:
        images = crop_and_flip(images, transform.crop_padding, changes.get("corners"), flips)
    if transform.brightness:
        images = brighten(images, changes["factors"])
    return normalise(images, transform, memory_format)


def _resized(images: Tensor, transform: Transform, boxes: Boxes, flips: Tensor | None) -> Tensor:
    height, width = images.shape[-2:]
    side = transform.test_side
    rows, columns = _grid(side or height, side or width, images.device)
    columns = columns[:1] if flips is None else rows_of(columns, flips)
    return resized_crop(images, boxes, rows, columns, transform.crop_padding)


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
    columns = columns[:1] if flips is None else rows_of(columns, flips)
    if corners is not None:
        images = pad(images, (padding,) * 4)
        rows, columns = rows + corners[0, :, None], columns + corners[1, :, None]
    indices = (rows * images.shape[3])[:, :, None] + columns[:, None, :]
    indices = indices.reshape(-1, 1, height * width).expand(num_images, num_channels, -1)
    return images.flatten(2).gather(2, indices).view(num_images, num_channels, height, width)


def brighten(images: Tensor, factors: Tensor) -> Tensor:
    """Images [N, C, H, W] uint8 times a factor each [N], cut to whole grey levels up to 255, as torchvision does."""
    return (images * factors[:, None, None, None]).clamp_(0, 255).to(torch.uint8)


def normalise(
    images: Tensor, transform: Transform, memory_format: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """(x / 255 - mean) / std of uint8 images [N, C, H, W], in float32, rounded as torchvision rounds it.

    Where the transform has a `test_side`, of the centre of that side.

    Raises:
        UserError: the images are smaller than that.
    """
    if transform.test_side is not None:
        images = centre_crop(images, transform.test_side)
    mean, std = _constants(transform.mean, transform.std, images.device)
    return images.to(torch.float32, memory_format=memory_format).div_(255).sub_(mean).div_(std)


def prepare(images: Tensor, transform: Transform, image_size: int) -> Tensor:
    """Images from outside the suite, normalised for a network (`normalise`).

    Args:
        images: [N, C, H, W] uint8.
        transform: of the network's images.
        image_size: side of the images that the network takes.

    Raises:
        UserError: the images are of another type, shape or size.
    """
    num_channels = len(transform.mean)
    if images.dtype != torch.uint8:
        raise UserError(f"images have type {images.dtype}: give torch.uint8, 0 to 255, which are normalised here")
    if images.ndim != 4 or images.shape[1] != num_channels:
        raise UserError(f"images have shape {list(images.shape)}: give [N, {num_channels}, H, W], channels first")
    prepared = normalise(images, transform)
    height, width = prepared.shape[-2:]
    if (height, width) != (image_size, image_size):
        raise UserError(f"images have {height}x{width} pixels: resize them to the network's {image_size}x{image_size}")
    return prepared


def centre_crop(images: Tensor, side: int) -> Tensor:
    """The centre [N, C, side, side] of images [N, C, H, W], where torchvision cuts it out.

    Raises:
        UserError: the images are smaller than that.
    """
    height, width = images.shape[-2:]
    if min(height, width) < side:
        raise UserError(f"images of {height}x{width} pixels have no centre of {side}x{side}: store larger images")
    top, left = round((height - side) / 2), round((width - side) / 2)
    return images[..., top : top + side, left : left + side]


@lru_cache(maxsize=16)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation as [C, 1, 1] on a device, sent there once."""
    first, second = (torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1) for values in (mean, std))
    return first, second


@lru_cache(maxsize=16)
def _grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row numbers [1, H], and column numbers [2, W], from left to right and from right to left."""
    columns = torch.arange(width, device=device)
    return torch.arange(height, device=device)[None], torch.stack((columns, columns.flip(0)))
