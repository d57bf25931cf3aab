"""Frames: the published preprocessing, antialiased crops, augmentation."""

import json
import math

import numpy as np
import pytest

from pmrl_jax.data import vision
from pmrl_jax.data.vision import Box


def noise(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height, width):
  """A frame without fine detail, `[1, height, width, 3]`."""
  rows, columns = np.mgrid[:height, :width]
  red = 200 * rows / height + 20
  green = 200 * columns / width + 30
  blue = 128 + 60 * np.sin(rows / height + columns / width)
  return np.stack([red, green, blue], axis=-1)[None].astype(np.uint8)


def bilinear(frame, height, width):
  """One frame resized pixel by pixel from its four neighbours, in float64."""
  pixels = frame.astype(np.float64) / 255
  resized = np.zeros((height, width, 3))
  for i in range(height):
    for j in range(width):
      y = max((i + 0.5) * frame.shape[0] / height - 0.5, 0)
      x = max((j + 0.5) * frame.shape[1] / width - 0.5, 0)
      for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
          weight = (1 - abs(y - row)) * (1 - abs(x - column))
          resized[i, j] += (
            weight
            * pixels[
              min(row, frame.shape[0] - 1), min(column, frame.shape[1] - 1)
            ]
          )
  return resized


def normalised(pixels):
  mean = np.array([0.48145466, 0.4578275, 0.40821073])
  std = np.array([0.26862954, 0.26130258, 0.27577711])
  return (pixels - mean) / std


@pytest.mark.parametrize("shape", [(9, 14), (14, 9), (5, 5), (3, 4), (1, 6)])
def test_published_frames_are_interpolated_from_four_neighbours(shape):
  frames = noise(2, *shape, 3)
  result = vision.published_frames(None, frames, resolution=6)
  assert result.dtype == np.float32
  expected = [normalised(bilinear(frame, 6, 6)) for frame in frames]
  np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize(
  ("shape", "resized", "offset"),
  [
    ((4, 5), (4, 5), (0, 0)),  # round(0.5) is 0 ...
    ((4, 7), (4, 7), (0, 2)),  # ... and round(1.5) is 2
    ((3, 5), (4, 6), (0, 1)),  # int(6.67) is 6
    ((10, 6), (6, 4), (1, 0)),  # of the other axis
    ((9, 9), (4, 4), (0, 0)),
  ],
)
def test_published_evaluation_crop_is_the_middle_of_the_resized_frame(
  shape, resized, offset
):
  frames = noise(1, *shape, 3)
  result = vision.published_frames(
    None, frames, resolution=4, transform="crop_flip"
  )
  whole = bilinear(frames[0], *resized)
  expected = whole[offset[0] :, offset[1] :][:4, :4]
  np.testing.assert_allclose(result[0], normalised(expected), atol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
def test_published_crop_is_cut_before_it_is_resized(flip):
  frames = noise(1, 12, 10, 3)
  result = vision.published_crop(
    frames, Box(2, 1, 5, 8), flip=flip, resolution=7
  )
  expected = bilinear(frames[0, 2:7, 1:9], 7, 7)
  expected = expected[:, ::-1] if flip else expected
  np.testing.assert_allclose(result[0], normalised(expected), atol=1e-6)


@pytest.mark.parametrize("shape", [(12, 18), (18, 12)])
def test_published_training_crop_of_wide_frames_is_the_central_square(shape):
  frames = noise(2, *shape, 3)
  box = Box((shape[0] - 12) // 2, (shape[1] - 12) // 2, 12, 12)
  expected = [
    vision.published_crop(frames, box, flip=flip, resolution=8)
    for flip in (False, True)
  ]
  flips = []
  for seed in range(40):
    result = vision.published_frames(
      np.random.default_rng(seed), frames, resolution=8, transform="crop_flip"
    )
    flips.append(np.array_equal(result, expected[1]))
    assert flips[-1] or np.array_equal(result, expected[0])
  assert 10 < sum(flips) < 30


def test_published_training_crop_is_one_of_the_squares_of_most_of_the_area():
  frame = noise(1, 10, 10, 3)
  frames = np.concatenate([frame, frame])
  squares = {
    vision.published_crop(frames, box, flip=flip, resolution=5).tobytes(): box
    for side in (9, 10)
    for top in range(11 - side)
    for left in range(11 - side)
    for box in [Box(top, left, side, side)]
    for flip in (False, True)
  }
  rng = np.random.default_rng(0)
  seen = set()
  for _ in range(150):
    result = vision.published_frames(
      rng, frames, resolution=5, transform="crop_flip"
    )
    np.testing.assert_array_equal(result[0], result[1])
    seen.add(squares[result.tobytes()])
  # sqrt(0.8) of 10 is 8.9: sides of 9, at four places, or of 10.
  assert len(seen) == 5


def test_drawn_boxes_keep_to_their_area_and_their_ratio():
  rng = np.random.default_rng(0)
  boxes = [
    vision.random_box(rng, 300, 400, scale=(0.3, 0.9), ratio=(0.5, 2.0))
    for _ in range(2000)
  ]
  share = np.array([box.height * box.width / 120000 for box in boxes])
  ratio = np.array([box.width / box.height for box in boxes])
  assert 0.29 < share.min() < 0.32 and 0.8 < share.max() < 0.91
  assert 0.49 < ratio.min() < 0.53 and 1.9 < ratio.max() < 2.02
  tops = [box.top for box in boxes if box.height < 200]
  assert min(tops) < 5 and max(tops) > 100
  for box in boxes:
    assert 0 <= box.top <= 300 - box.height
    assert 0 <= box.left <= 400 - box.width


@pytest.mark.parametrize(
  ("height", "width", "ratio", "expected"),
  [
    (100, 1000, (0.75, 1.5), Box(0, 425, 100, 150)),
    (1000, 100, (0.5, 1.0), Box(400, 0, 200, 100)),
  ],
)
def test_where_no_box_fits_it_is_the_largest_of_an_allowed_ratio(
  height, width, ratio, expected
):
  box = vision.random_box(
    np.random.default_rng(0), height, width, scale=(0.9, 1.0), ratio=ratio
  )
  assert box == expected


def cubic(distance):
  """Keys' cubic, a = -0.5."""
  x = abs(distance)
  if x < 1:
    return 1.5 * x**3 - 2.5 * x**2 + 1
  return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def antialiased(values, size):
  """`[in] -> [size]`: the cubic, stretched by the reduction, in float64."""
  step = len(values) / size
  width = max(step, 1)
  resized = []
  for i in range(size):
    weights = np.array(
      [cubic((j + 0.5 - (i + 0.5) * step) / width) for j in range(len(values))]
    )
    resized.append(weights @ values / weights.sum())
  return np.array(resized)


def test_resizing_weighs_every_pixel_by_an_antialiased_cubic():
  frames = noise(1, 23, 31, 3)
  result = vision.resize_frames(frames, resolution=6, box=Box(2, 4, 19, 17))
  part = frames[0, 2:21, 4:21].astype(np.float64)
  across = np.apply_along_axis(antialiased, 1, part, 6)
  expected = np.apply_along_axis(antialiased, 0, across, 6).clip(0, 255)
  assert result.dtype == np.uint8 and result.shape == (1, 6, 6, 3)
  # Pillow rounds to integers after either axis.
  assert np.abs(result[0] - expected).max() <= 1.5


def test_fine_stripes_become_grey_and_not_false_stripes():
  frames = np.zeros((1, 90, 90, 3), np.uint8)
  frames[:, :, ::2] = 255
  grey = vision.resize_frames(frames, resolution=40)
  aliased = vision.published_frames(None, frames, resolution=40)
  assert np.abs(grey[0, :, 2:-2].astype(float) - 127.5).max() < 16
  assert np.ptp(aliased[..., 0]) > 2.5  # black to white is 3.7


def test_central_crop_is_the_central_square():
  frames = noise(2, 10, 17, 3)
  np.testing.assert_array_equal(
    vision.centre_crop(frames, resolution=10), frames[:, :, 3:13]
  )


def test_random_crop_is_a_resized_box():
  frames = smooth(40, 60)
  result = vision.random_resized_crop(
    np.random.default_rng(3), frames, resolution=8
  )
  box = vision.random_box(
    np.random.default_rng(3), 40, 60, scale=(0.5, 1.0), ratio=(3 / 4, 4 / 3)
  )
  expected = vision.resize_frames(frames, resolution=8, box=box)
  np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_frames_are_mirrored_as_often_as_asked(probability):
  frames = noise(2, 3, 4, 3)
  rng = np.random.default_rng(0)
  flips = 0
  for _ in range(400):
    result = vision.random_horizontal_flip(rng, frames, probability=probability)
    if np.array_equal(result, frames[:, :, ::-1]):
      flips += 1
    else:
      np.testing.assert_array_equal(result, frames)
  assert abs(flips / 400 - probability) < 0.07


def test_pixels_are_normalised_by_clip():
  frames = noise(2, 3, 4, 3)
  result = vision.normalise_pixels(frames)
  assert result.dtype == np.float32
  np.testing.assert_allclose(result, normalised(frames / 255), atol=1e-6)


def jitter(frames, seed=0, **strengths):
  default = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
  return vision.random_colour_jitter(
    np.random.default_rng(seed), frames, **(default | strengths)
  )


def test_jitter_of_no_strength_changes_nothing():
  frames = noise(2, 5, 6, 3)
  np.testing.assert_array_equal(jitter(frames), frames)


def test_brightness_is_a_factor_within_its_strength():
  frames = np.full((2, 4, 4, 3), 100, np.uint8)
  seen = []
  for seed in range(100):
    result = jitter(frames, seed, brightness=0.4)
    assert np.ptp(result) == 0
    seen.append(int(result[0, 0, 0, 0]))
  assert 60 <= min(seen) < 65 and 135 < max(seen) <= 140


def test_contrast_keeps_the_mean_and_saturation_keeps_grey():
  grey = np.repeat(noise(1, 20, 20, 1), 3, axis=-1)
  np.testing.assert_array_equal(jitter(grey, saturation=1), grey)
  result = jitter(grey // 2 + 64, seed=5, contrast=0.5)
  assert abs(result.mean() - (grey // 2 + 64).mean()) < 1
  assert abs(result.std() / (grey // 2).std() - 1) > 0.05


def test_hue_turns_by_a_share_of_the_circle():
  red = np.zeros((1, 2, 2, 3), np.uint8)
  red[..., 0] = 200
  seen = [jitter(red, seed, hue=1 / 3)[0, 0, 0] for seed in range(100)]
  assert all(colour.max() == 200 and colour.min() <= 3 for colour in seen)
  # Two sixths of the circle lead from red past yellow to green, or to blue.
  assert any(colour[1] == 200 for colour in seen)
  assert any(colour[2] == 200 for colour in seen)


def augment(frames, name, magnitude, seed=0):
  return vision.random_augment(
    np.random.default_rng(seed),
    frames,
    num_operations=1,
    magnitude=magnitude,
    operations=[name],
  )


@pytest.mark.parametrize("name", vision.OPERATIONS)
def test_operations_change_frames_by_their_strength(name):
  frames = np.concatenate([smooth(24, 24) // 2 + 40] * 2)
  weak, strong = (
    np.mean(np.abs(augment(frames, name, m).astype(float) - frames))
    for m in (0, 10)
  )
  if name not in ("autocontrast", "equalize"):
    assert weak == 0
  assert strong > 0.2 or name in ("identity", "sharpness")


def test_translation_and_its_sign():
  frames = noise(1, 10, 20, 3)
  for name, axis, pixels in (("translate_x", 2, 6), ("translate_y", 1, 3)):
    shifted = {
      augment(frames, name, 10 * pixels / (0.45 * size), seed).tobytes()
      for seed in range(20)
      for size in [frames.shape[axis]]
    }
    expected = set()
    for sign in (1, -1):
      moved = np.roll(frames, sign * pixels, axis)
      border = [slice(None)] * 4
      border[axis] = slice(pixels) if sign > 0 else slice(-pixels, None)
      moved[tuple(border)] = 128
      expected.add(moved.tobytes())
    assert shifted == expected


def test_shear_and_rotation_leave_the_middle_in_place():
  frames = np.zeros((1, 21, 21, 3), np.uint8)
  frames[:, 9:12, 9:12] = 255
  for name in ("shear_x", "shear_y", "rotate"):
    result = augment(frames, name, 10)
    assert result[0, 10, 10, 0] == 255 and np.any(result != frames)
    mass = np.clip(result[0, 4:17, 4:17, 0].astype(float), 0, 255)
    rows, columns = np.mgrid[4:17, 4:17]
    np.testing.assert_allclose((rows * mass).sum() / mass.sum(), 10, atol=0.1)
    np.testing.assert_allclose(
      (columns * mass).sum() / mass.sum(), 10, atol=0.1
    )


def test_augmentation_depends_on_the_generator_alone():
  frames = noise(3, 12, 12, 3)
  frames[1:] = frames[0]
  results = [
    vision.random_augment(np.random.default_rng(seed), frames)
    for seed in (0, 0, 1, 2, 3)
  ]
  np.testing.assert_array_equal(results[0], results[1])
  assert len({result.tobytes() for result in results}) > 2
  for result in results:
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result[1:], result[:1].repeat(2, axis=0))


def test_the_frames_given_are_never_written_to():
  frames = noise(2, 12, 12, 3)
  frames.flags.writeable = False
  rng = np.random.default_rng(0)
  vision.published_frames(rng, frames, resolution=4, transform="crop_flip")
  vision.random_resized_crop(rng, frames, resolution=4)
  vision.random_colour_jitter(rng, frames[:, :, ::-1])
  vision.random_augment(rng, frames)


FRAMES = np.zeros((1, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
  ("error", "message", "call"),
  [
    (TypeError, "uint8", lambda r: vision.published_frames(None, FRAMES / 2)),
    (
      ValueError,
      r"image\[None\]",
      lambda r: vision.published_frames(None, FRAMES[0]),
    ),
    (
      ValueError,
      "crop_flip",
      lambda r: vision.published_frames(None, FRAMES, transform="crop"),
    ),
    (
      ValueError,
      "within frames of 4x4",
      lambda r: vision.published_crop(
        FRAMES, Box(1, 0, 4, 4), flip=False, resolution=2
      ),
    ),
    (
      ValueError,
      "positive resolution",
      lambda r: vision.resize_frames(FRAMES, resolution=0),
    ),
    (
      ValueError,
      "scale=",
      lambda r: vision.random_box(r, 4, 4, scale=(0.9, 0.5), ratio=(1, 1)),
    ),
    (
      ValueError,
      "probability from 0 to 1",
      lambda r: vision.random_horizontal_flip(r, FRAMES, probability=2),
    ),
    (
      ValueError,
      "hue from 0 to 0.5",
      lambda r: vision.random_colour_jitter(r, FRAMES, hue=1),
    ),
    (
      ValueError,
      "autocontrast.* got 'blur'",
      lambda r: vision.random_augment(r, FRAMES, operations=["blur"]),
    ),
    (
      ValueError,
      "magnitude from 0 to 10",
      lambda r: vision.random_augment(r, FRAMES, magnitude=30),
    ),
    (
      ValueError,
      "3 channels",
      lambda r: vision.normalise_pixels(FRAMES, mean=[0.5], std=[1]),
    ),
  ],
)
def test_errors_say_what_was_expected(error, message, call):
  with pytest.raises(error, match=message):
    call(np.random.default_rng(0))


@pytest.fixture
def golden(recorded):
  return recorded("vision_preproc.npz")


def test_published_preprocessing_equals_recorded_outputs(golden):
  cases = json.loads(bytes(golden["cfg/json"]))["info"]
  recorded = [name for name in cases if f"out/{name}" in golden]
  assert len(recorded) >= 4
  for name in recorded:
    case = cases[name]
    frames = golden[case.get("source", "in/frames")][case["frames"]]
    if name.startswith("test"):
      result = vision.published_frames(
        None, frames, resolution=56, transform=name.split("/")[1]
      )
    else:
      result = vision.published_crop(
        frames,
        Box(*case["crop_top_left_height_width"]),
        flip=case["flip"],
        resolution=56,
      )
    expected = np.moveaxis(golden[f"out/{name}"], 1, -1)
    np.testing.assert_allclose(result, expected, atol=1e-6, err_msg=name)
