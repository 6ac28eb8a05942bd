import itertools

import pytest
import torch
from torchvision.transforms import functional as reference

from utils.data.augment import Transform, augment, crop_and_flip, normalise

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2615)


def random_images(num_images=6, height=8, width=8, channels=3):
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_images, channels, height, width), dtype=torch.uint8, generator=draws)


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def by_torchvision(image, padding, top, left, flip):
    height, width = image.shape[1:]
    image = reference.crop(reference.pad(image, padding), top, left, height, width)
    return reference.hflip(image) if flip else image


@pytest.mark.parametrize("padding", [1, 2, 4])
def test_every_place_and_flip_is_torchvisions(padding):
    settings = list(itertools.product(range(2 * padding + 1), range(2 * padding + 1), range(2)))
    images = random_images(len(settings))
    tops, lefts, flips = map(torch.tensor, zip(*settings, strict=True))
    ours = crop_and_flip(images, padding, torch.stack((tops, lefts)), flips)
    expected = [by_torchvision(image, padding, *each) for image, each in zip(images, settings, strict=True)]
    assert torch.equal(ours, torch.stack(expected))


def test_images_need_not_be_square():
    images = random_images(4, height=6, width=10)
    corners, flips = torch.tensor([[0, 1, 2, 4], [3, 0, 2, 4]]), torch.tensor([0, 1, 1, 0])
    settings = zip(images, corners[0].tolist(), corners[1].tolist(), flips.tolist(), strict=True)
    expected = torch.stack([by_torchvision(image, 2, top, left, flip) for image, top, left, flip in settings])
    assert torch.equal(crop_and_flip(images, 2, corners, flips), expected)


def test_flip_without_crop_and_crop_without_flip():
    images = random_images(2)
    assert torch.equal(
        crop_and_flip(images, 0, None, torch.tensor([0, 1])), torch.stack((images[0], images[1].flip(2)))
    )
    shifted = crop_and_flip(images, 1, torch.tensor([[0, 1], [1, 1]]), None)
    assert torch.equal(shifted[0, :, 1:], images[0, :, :-1])
    assert not shifted[0, :, 0].any()
    assert torch.equal(shifted[1], images[1])


def test_normalisation_is_torchvisions_to_the_bit():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    expected = reference.normalize(images.to(torch.float32).div(255), MEAN, STD)
    ours = normalise(images, Transform(4, True, MEAN, STD))
    assert ours.dtype == torch.float32
    assert torch.equal(ours, expected)


def test_border_is_black_before_normalisation():
    images = torch.full((200, 3, 4, 4), 255, dtype=torch.uint8)
    values = augment(images, Transform(1, False, MEAN, STD), random())
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        found = values[:, channel].unique()
        torch.testing.assert_close(found, torch.tensor([-mean / std, (1 - mean) / std]))


@pytest.mark.parametrize("transform", [Transform(2, True, MEAN, STD), Transform(0, False, MEAN, STD)])
def test_input_is_left_as_it_was(transform):
    images = random_images()
    before = images.clone()
    augment(images, transform, random())
    normalise(images, transform)
    assert torch.equal(images, before)


def test_without_augmentation_nothing_is_drawn_and_images_are_only_normalised():
    images, transform, generator = random_images(), Transform(0, False, MEAN, STD), random()
    before = generator.get_state()
    assert torch.equal(augment(images, transform, generator), normalise(images, transform))
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("transform", [Transform(2, True, MEAN, STD), Transform(2, False, MEAN, STD)])
def test_randomness_comes_from_the_generator_alone(transform):
    images = random_images(32)
    first = augment(images, transform, random(1))
    torch.manual_seed(3)
    assert torch.equal(augment(images, transform, random(1)), first)
    assert not torch.equal(augment(images, transform, random(2)), first)


def test_every_place_and_flip_is_equally_likely_for_each_image():
    """A picture whose brightest pixel tells where it went."""
    num_images, padding = 20_000, 1
    image = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    image[0, 0, 2, 1] = 255
    transform = Transform(padding, True, (0.0,), (1.0,))
    places = augment(image.expand(num_images, -1, -1, -1), transform, random()).flatten(1).argmax(1)
    counts = torch.bincount(places, minlength=25).view(5, 5)
    # A crop moves it by -1, 0 or 1; a flip takes column c to 4 - c, so that column 2 is reached in two ways.
    share = torch.zeros(5, 5)
    share[1:4] = torch.tensor([1.0, 1, 2, 1, 1]) / 18
    assert (counts[share == 0] == 0).all()
    deviation = (counts / num_images - share).abs()
    assert (deviation < 4.5 * (share / num_images).sqrt() + 1e-9).all()


def test_image_of_a_batch_does_not_depend_on_its_neighbours():
    images, transform = random_images(8), Transform(2, True, MEAN, STD)
    others = images.clone()
    others[1:] = 0
    assert torch.equal(augment(images, transform, random())[0], augment(others, transform, random())[0])


def test_constants_of_a_device_serve_inside_and_outside_inference_mode():
    transform, images = Transform(2, True, (0.111,) * 3, (0.222,) * 3), random_images()
    with torch.inference_mode():
        normalise(images, transform)
        augment(images, transform, random())
    weight = torch.ones(1, requires_grad=True)
    (augment(images, transform, random()) * weight).sum().backward()
    assert weight.grad is not None
