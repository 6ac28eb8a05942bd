"""Random crops of random size and aspect, resized, of a whole batch at once, each image on its own.

Boxes are drawn and pixel values computed as torchvision's RandomResizedCrop does with Pillow images (the augmentation
of Szegedy et al., CVPR 2015): bilinear, with a filter that grows with the reduction.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

AREA = (0.08, 1.0)  # of the image
ASPECT = (3 / 4, 4 / 3)  # width by height, uniform on a logarithmic scale
NUM_TRIES = 10


class Boxes(NamedTuple):
    """What is cut out of each image, in pixels; whole numbers, as float32 [N]."""

    tops: Tensor
    lefts: Tensor
    heights: Tensor
    widths: Tensor


def draw_boxes(num_images: int, height: int, width: int, generator: torch.Generator) -> Boxes:
    """Boxes of random area and aspect at a random position, within images of this size.

    The first of ten tries that fits the image is taken. If none fits, it is the largest central box of an allowed
    aspect. Draws 22 numbers per image in one call, whatever fits: areas, aspects, row, column.

    Args:
        num_images: N.
        height, width: of the images, in pixels.
        generator: on the host.
    """
    draws = torch.rand((2 * NUM_TRIES + 2, num_images), generator=generator)
    areas = (AREA[0] + (AREA[1] - AREA[0]) * draws[:NUM_TRIES]) * (height * width)
    low, high = map(math.log, ASPECT)
    aspects = torch.exp(low + (high - low) * draws[NUM_TRIES : 2 * NUM_TRIES])
    tried_heights, tried_widths = (areas / aspects).sqrt().round(), (areas * aspects).sqrt().round()
    fits = (tried_heights >= 1) & (tried_heights <= height) & (tried_widths >= 1) & (tried_widths <= width)
    first, found = fits.int().argmax(0, keepdim=True), fits.any(0)
    last_height, last_width = _central_size(height, width)
    heights = tried_heights.gather(0, first)[0].where(found, last_height)
    widths = tried_widths.gather(0, first)[0].where(found, last_width)
    tops = (draws[-2] * (height - heights + 1)).floor().where(found, (height - last_height) // 2)
    lefts = (draws[-1] * (width - widths + 1)).floor().where(found, (width - last_width) // 2)
    return Boxes(tops, lefts, heights, widths)


def _central_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the largest box of an allowed aspect."""
    if width / height < ASPECT[0]:
        return round(width / ASPECT[0]), width
    if width / height > ASPECT[1]:
        return height, round(height * ASPECT[1])
    return height, width


def resized_crop(images: Tensor, boxes: Boxes, rows: Tensor, columns: Tensor, padding: int = 0) -> Tensor:
    """Cut a box out of each image with a black border, and resize it.

    Pillow also rounds to whole grey levels between rows and columns, and therefore differs by up to 1 level.

    Args:
        images: [N, C, H, W] uint8.
        boxes: in the images with their border, of sides H + 2 P and W + 2 P.
        rows: for each row of the result, its number in the resized box, [N or 1, out H] of whole numbers.
        columns: the same for columns, [N or 1, out W]; from right to left they mirror the image.
        padding: width of the border P.

    Returns:
        [N, C, out H, out W] uint8.
    """
    height, width = images.shape[-2:]
    row_weights = _weights(boxes.tops, boxes.heights, rows, height, padding)
    column_weights = _weights(boxes.lefts, boxes.widths, columns, width, padding)
    # All channels' rows in one product per image: broadcasting would copy the weights for every channel.
    values = (images.to(torch.float32).flatten(1, 2) @ column_weights.mT).unflatten(1, images.shape[1:3])
    return (row_weights[:, None] @ values).add_(0.5).to(torch.uint8)


def _weights(starts: Tensor, lengths: Tensor, places: Tensor, side: int, padding: int) -> Tensor:
    """What each pixel of a line adds to each pixel of the resized line, [N, out, side].

    A triangle around the place's centre, as wide as a pixel of the result but not narrower than one of the image, cut
    off at the ends of the box, of sum 1 with the border. The border itself, being black, is left out.

    Args:
        starts, lengths: of the boxes on the line with its border, the first pixel of which is number 0; [N].
        places: numbers of the pixels of the resized box, [N or 1, out].
        side: pixels of the line without its border.
        padding: width of the border.
    """
    pixels = _pixel_centres(side + 2 * padding, starts.device)
    starts, lengths = starts[:, None], lengths[:, None]
    scales = lengths / places.shape[1]
    centres = torch.addcmul(starts, places + 0.5, scales)[:, :, None]
    weights = (scales.clamp(min=1)[:, :, None] - (pixels - centres).abs_()).clamp_(min=0)
    weights *= ((pixels > starts) & (pixels < starts + lengths))[:, None]
    return (weights / weights.sum(2, keepdim=True))[:, :, padding : padding + side]


@lru_cache(maxsize=16)
def _pixel_centres(number: int, device: torch.device) -> Tensor:
    return torch.arange(number, device=device) + 0.5
