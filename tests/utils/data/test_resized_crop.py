import math

import pytest
import torch
from scipy.stats import ks_2samp, kstest
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as reference

from utils.data.resized_crop import Boxes, draw_boxes, resized_crop

SETTINGS = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(num_images, height, width):
    return torch.randint(0, 256, (num_images, 3, height, width), dtype=torch.uint8, generator=random())


def line(side):
    return torch.arange(side)[None]


def boxes_of(*places):
    return Boxes(*(torch.tensor(values, dtype=torch.float32) for values in zip(*places, strict=True)))


def by_torchvision(image, padding, box, size):
    image = reference.pad(reference.to_pil_image(image), padding)
    return reference.pil_to_tensor(reference.resized_crop(image, *(int(value) for value in box), size))


def largest_and_mean_difference(images, boxes, size, padding):
    ours = resized_crop(images, boxes, line(size[0]), line(size[1]), padding)
    boxes_of_images = zip(*boxes, strict=True)
    theirs = [by_torchvision(image, padding, box, size) for image, box in zip(images, boxes_of_images, strict=True)]
    difference = (ours.int() - torch.stack(theirs).int()).abs()
    return difference.max(), difference.float().mean()


@pytest.mark.parametrize(
    ("height", "width", "padding", "size"),
    [(32, 32, 4, (32, 32)), (256, 256, 0, (224, 224)), (20, 31, 2, (33, 27)), (9, 9, 0, (9, 9))],
)
def test_grey_levels_are_those_of_pillow(height, width, padding, size):
    num_images = 12 if height > 100 else 60
    boxes = draw_boxes(num_images, height + 2 * padding, width + 2 * padding, random(1))
    largest, mean = largest_and_mean_difference(random_images(num_images, height, width), boxes, size, padding)
    assert largest <= 1
    assert mean < 0.3


def test_extreme_boxes_are_those_of_pillow():
    """A single pixel, a single column, the border alone, far reductions, and no change at all."""
    boxes = boxes_of((5, 7, 1, 1), (0, 9, 40, 1), (0, 0, 4, 4), (0, 0, 40, 40), (4, 4, 32, 32), (37, 2, 3, 38))
    images = random_images(6, 32, 32)
    for size in [(32, 32), (3, 5), (70, 41)]:
        largest, _ = largest_and_mean_difference(images, boxes, size, padding=4)
        assert largest <= 1
    assert torch.equal(resized_crop(images, boxes, line(32), line(32), 4)[4], images[4])


def test_constant_images_keep_their_grey_level():
    images = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 24, 24)
    boxes = draw_boxes(256, 24, 24, random())
    cropped = resized_crop(images, boxes, line(32), line(32))
    assert torch.equal(cropped, images[:, :, :1, :1].expand(-1, -1, 32, 32))


def test_places_from_right_to_left_mirror_the_image():
    images = random_images(8, 32, 32)
    boxes = draw_boxes(8, 40, 40, random())
    columns = torch.stack((line(32)[0], line(32)[0].flip(0)))[torch.tensor([0, 1] * 4)]
    plain = resized_crop(images, boxes, line(32), line(32), 4)
    mirrored = resized_crop(images, boxes, line(32), columns, 4)
    assert torch.equal(mirrored[0::2], plain[0::2])
    assert torch.equal(mirrored[1::2], plain[1::2].flip(3))


def test_image_of_a_batch_does_not_depend_on_its_neighbours():
    images = random_images(8, 32, 32)
    boxes = draw_boxes(8, 40, 40, random())
    whole = resized_crop(images, boxes, line(32), line(32), 4)
    alone = resized_crop(images[3:4], Boxes(*(values[3:4] for values in boxes)), line(32), line(32), 4)
    assert torch.equal(whole[3:4], alone)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (256, 256), (12, 30), (50, 9), (1, 3)])
def test_boxes_are_whole_numbers_within_the_image(height, width):
    tops, lefts, heights, widths = draw_boxes(5000, height, width, random())
    for values in (tops, lefts, heights, widths):
        assert values.dtype == torch.float32
        assert torch.equal(values, values.round())
    assert min(tops.min(), lefts.min()) == 0
    assert min(heights.min(), widths.min()) >= 1
    assert (tops + heights).max() == height
    assert (lefts + widths).max() == width


def drawn_by_torchvision(num_images, height, width):
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    draws = [RandomResizedCrop.get_params(image, **SETTINGS) for _ in range(num_images)]
    return torch.tensor(draws, dtype=torch.float32).T


@pytest.mark.parametrize(("height", "width"), [(40, 40), (30, 60), (15, 70)])
def test_boxes_have_torchvisions_distribution(height, width):
    """Areas, aspects and places; at 15 x 70 most draws fit only after several tries, many never."""
    tops, lefts, heights, widths = drawn_by_torchvision(6000, height, width)
    ours = draw_boxes(30_000, height, width, random())
    pairs = {
        "tops": (ours.tops, tops),
        "lefts": (ours.lefts, lefts),
        "areas": (ours.heights * ours.widths, heights * widths),
        "aspects": (ours.widths / ours.heights, widths / heights),
        "lower ends": (ours.tops + ours.heights, tops + heights),
    }
    for name, (own, other) in pairs.items():
        assert ks_2samp(own.numpy(), other.numpy()).pvalue > 1e-3, name


def test_places_are_uniform_given_the_size():
    """(top + a uniform number) / (number of places) is uniform on [0, 1], and rows say nothing about columns."""
    boxes = draw_boxes(40_000, 40, 40, random())
    spread = torch.rand((2, 40_000), generator=random(9))
    rows = (boxes.tops + spread[0]) / (40 - boxes.heights + 1)
    columns = (boxes.lefts + spread[1]) / (40 - boxes.widths + 1)
    for values in (rows, columns):
        assert kstest(values.numpy(), "uniform").pvalue > 1e-3
    assert torch.corrcoef(torch.stack((rows, columns)))[0, 1].abs() < 0.02


@pytest.mark.parametrize(("height", "width", "box"), [(4, 100, (0, 47, 4, 5)), (100, 4, (47, 0, 5, 4))])
def test_box_that_never_fits_gives_way_to_the_central_one(height, width, box):
    """Of 4 x 100 pixels at least 32 are asked for, which 4 rows can hold only at an aspect of 2."""
    for values, expected in zip(draw_boxes(50, height, width, random()), box, strict=True):
        assert torch.equal(values, torch.full((50,), float(expected)))
    image = torch.empty(3, height, width)
    assert RandomResizedCrop.get_params(image, **SETTINGS) == box


def test_numbers_drawn_do_not_depend_on_what_fits():
    generators = [random(), random()]
    draw_boxes(7, 40, 40, generators[0])
    draw_boxes(7, 4, 100, generators[1])
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_areas_span_the_allowed_range():
    boxes = draw_boxes(20_000, 256, 256, random())
    shares = boxes.heights * boxes.widths / 256**2
    assert 0.078 < shares.min() < 0.085
    assert 0.95 < shares.max() <= 1
    logarithms = (boxes.widths / boxes.heights).log() / math.log(4 / 3)
    assert -1.03 < logarithms.min() < -0.95
    assert 0.95 < logarithms.max() < 1.03
