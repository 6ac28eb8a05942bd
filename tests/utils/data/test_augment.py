import hashlib
import itertools

import pytest
import torch
from torchvision.transforms import functional as reference

from utils.data.augment import (
    Augmentation,
    Transform,
    augment,
    brighten,
    centre_crop,
    crop_and_flip,
    normalise,
    prepare,
)
from utils.errors import UserError

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2615)
PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
TRANSFORMS = {
    "crop and flip": Transform(2, True, MEAN, STD),
    "crop": Transform(2, False, MEAN, STD),
    "resized": Transform(4, True, MEAN, STD, resized_crop=True),
    "resized without flip": Transform(4, False, MEAN, STD, resized_crop=True),
    "brightness": Transform(2, True, MEAN, STD, brightness=63 / 255),
    "brightness alone": Transform(0, False, MEAN, STD, brightness=0.5),
    "smaller test images": Transform(0, True, MEAN, STD, resized_crop=True, brightness=0.2, test_side=12),
}


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(num_images=6, height=16, width=16):
    return torch.randint(0, 256, (num_images, 3, height, width), dtype=torch.uint8, generator=random())


def by_torchvision(image, padding, top, left, flip):
    height, width = image.shape[1:]
    image = reference.crop(reference.pad(image, padding), top, left, height, width)
    return reference.hflip(image) if flip else image


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_images_of_any_memory_format_have_the_same_values(transform):
    images, found = random_images(), []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        augmentation = Augmentation(transform, {"stream": random()}, memory_format)
        changes = augmentation.draw(images.shape, augmentation.generators["stream"])
        found.append((augmentation.apply(images, changes), augmentation.prepare(images)))
        assert all(each.is_contiguous(memory_format=memory_format) for each in found[-1])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


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


def test_without_augmentation_nothing_is_drawn_and_images_are_only_normalised():
    images, transform, generator = random_images(), Transform(0, False, MEAN, STD), random()
    before = generator.get_state()
    assert torch.equal(augment(images, transform, generator), normalise(images, transform))
    assert torch.equal(generator.get_state(), before)


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


def test_constants_of_a_device_serve_inside_and_outside_inference_mode():
    transform, images = Transform(2, True, (0.111,) * 3, (0.222,) * 3), random_images()
    with torch.inference_mode():
        normalise(images, transform)
        augment(images, transform, random())
    weight = torch.ones(1, requires_grad=True)
    (augment(images, transform, random()) * weight).sum().backward()
    assert weight.grad is not None


# -- Resized crops, brightness, the crop of test images


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_randomness_comes_from_the_generator_alone(transform):
    images = random_images(32)
    before = images.clone()
    first = augment(images, transform, random(1))
    torch.manual_seed(3)
    assert torch.equal(augment(images, transform, random(1)), first)
    assert not torch.equal(augment(images, transform, random(2)), first)
    assert torch.equal(images, before)
    assert first.dtype == torch.float32


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_image_of_a_batch_does_not_depend_on_its_neighbours(transform):
    images = random_images(8)
    others = images.clone()
    others[1:] = 0
    assert torch.equal(augment(images, transform, random())[0], augment(others, transform, random())[0])


@pytest.mark.parametrize(
    ("settings", "digest"),
    [
        ((4, True), "bbd2a588084d32bc"),
        ((4, False), "823936dbd239a5f2"),
        ((0, True), "34f5abacbb9bdf94"),
        ((0, False), "d81d895e641280ed"),
    ],
)
def test_plain_crops_and_flips_are_pinned(settings, digest):
    """Records of earlier runs rest on these numbers and on the order in which they are drawn."""
    generator = random(3)
    values = augment(random_images(16, 32, 32), Transform(*settings, MEAN, STD), generator)
    draw = torch.rand(3, generator=generator)
    found = hashlib.sha256(values.numpy().tobytes() + draw.numpy().tobytes()).hexdigest()
    assert found.startswith(digest)


@pytest.mark.parametrize("factor", [0.0, 0.3, 192 / 255, 1.0, 1.1, 318 / 255, 3.0])
def test_brightness_is_torchvisions(factor):
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    ours = brighten(images, torch.tensor([factor]))
    assert torch.equal(ours, reference.adjust_brightness(images, factor))
    pillow = reference.adjust_brightness(reference.to_pil_image(images[0]), factor)
    assert torch.equal(ours[0], reference.pil_to_tensor(pillow))


@pytest.mark.parametrize(("brightness", "low", "high"), [(63 / 255, 192 / 255, 318 / 255), (1.5, 0, 2.5)])
def test_brightness_is_uniform_between_its_limits_and_of_each_image(brightness, low, high):
    images = torch.full((40_000, 1, 1, 1), 100, dtype=torch.uint8)
    transform = Transform(0, False, (0.0,), (1.0,), brightness=brightness)
    factors = augment(images, transform, random()).flatten() * 2.55
    assert low - 0.011 <= factors.min() < low + 0.011
    assert high - 0.021 < factors.max() <= high
    assert abs(factors.mean() + 0.005 - (low + high) / 2) < 5 * (high - low) / 12**0.5 / 200
    assert abs(factors.std() - (high - low) / 12**0.5) < 0.02 * (high - low)


def test_brightness_comes_after_crop_and_flip_and_leaves_their_draws_alone():
    images, plain = random_images(16), Transform(2, True, **PLAIN)
    brightened = Transform(2, True, **PLAIN, brightness=0.4)
    generator = random()
    cropped = (augment(images, plain, generator) * 255).round().to(torch.uint8)
    factors = 0.6 + 0.8 * torch.rand(16, generator=generator)
    expected = normalise(brighten(cropped, factors), plain)
    assert torch.equal(augment(images, brightened, random()), expected)


def test_resized_crops_are_flipped_for_half_of_the_images():
    """An image that brightens to the right tells which way it was turned."""
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).expand(4000, 1, 32, 32)
    for flip, expected in ((True, 0.5), (False, 0.0)):
        transform = Transform(0, flip, (0.0,), (1.0,), resized_crop=True)
        values = augment(ramp, transform, random())
        mirrored = values[:, 0, 16, 0] > values[:, 0, 16, -1]
        assert abs(mirrored.float().mean() - expected) < 0.04


def test_resized_crops_see_the_border():
    white = torch.full((500, 1, 16, 16), 255, dtype=torch.uint8)
    bordered = augment(white, Transform(4, False, (0.0,), (1.0,), resized_crop=True), random())
    assert bordered.min() == 0
    assert bordered.amax((1, 2, 3)).eq(1).float().mean() > 0.95
    borderless = augment(white, Transform(0, False, (0.0,), (1.0,), resized_crop=True), random())
    assert torch.equal(borderless, torch.ones_like(borderless))


@pytest.mark.parametrize(
    ("height", "width", "side"), [(16, 16, 12), (17, 18, 12), (16, 19, 16), (19, 16, 16), (15, 21, 10)]
)
def test_centre_is_torchvisions(height, width, side):
    images = random_images(2, height, width)
    centre = centre_crop(images, side)
    assert torch.equal(centre, reference.center_crop(images, [side, side]))
    transform = Transform(0, True, MEAN, STD, resized_crop=True, test_side=side)
    expected = normalise(centre, Transform(0, True, MEAN, STD))
    assert torch.equal(normalise(images, transform), expected)
    assert augment(images, transform, random()).shape == (2, 3, side, side)


def test_images_smaller_than_the_test_crop_are_refused():
    transform = Transform(0, False, MEAN, STD, resized_crop=True, test_side=20)
    with pytest.raises(UserError, match=r"16x16 .* 20x20"):
        normalise(random_images(), transform)


def test_images_from_outside_are_prepared_as_those_of_a_run():
    images = random_images()
    for name, side in (("crop", 16), ("smaller test images", 12)):
        assert torch.equal(prepare(images, TRANSFORMS[name], side), normalise(images, TRANSFORMS[name]))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (random_images() / 255, r"images have type torch\.float32: give torch\.uint8"),
        (random_images()[0], r"images have shape \[3, 16, 16\]: give \[N, 3, H, W\]"),
        (random_images().permute(0, 2, 3, 1), r"shape \[6, 16, 16, 3\]: give \[N, 3, H, W\], channels first"),
        (random_images(height=32, width=32), "images have 32x32 pixels: resize them to the network's 16x16"),
        (random_images(width=12), "images have 16x12 pixels"),
    ],
)
def test_images_from_outside_that_a_network_does_not_take_are_refused(images, words):
    with pytest.raises(UserError, match=words):
        prepare(images, TRANSFORMS["crop"], 16)


@pytest.mark.parametrize(("settings", "word"), [({"brightness": -0.1}, "brightness"), ({"test_side": 8}, "test_side")])
def test_settings_that_mean_nothing_are_refused(settings, word):
    with pytest.raises(UserError, match=word):
        Transform(4, True, MEAN, STD, **settings)
