"""Images: every form becomes upright RGB, and what is no image an error."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from pmrl_jax.data.decoding import MediaError, probe, read_image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 30, 3), np.uint8)


def encoded(image, form="PNG", **settings):
  file = io.BytesIO()
  image.save(file, form, **settings)
  return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "BMP", "PPM", "TIFF", "WEBP"])
def test_pixels_come_as_they_are(tmp_path, form):
  content = encoded(Image.fromarray(PIXELS), form, lossless=True)
  path = tmp_path / "image.with.any_name"
  path.write_bytes(content)
  for given in (content, path, str(path)):
    found = read_image(given)
    assert found.dtype == np.uint8 and found.flags.writeable
    np.testing.assert_array_equal(found, PIXELS)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_an_image_upright(orientation):
  upright = np.zeros((32, 48, 3), np.uint8)
  upright[:16, :16], upright[16:, 32:] = (255, 0, 0), (0, 0, 255)
  stored = {
    1: upright,
    2: upright[:, ::-1],
    3: upright[::-1, ::-1],
    4: upright[::-1],
    5: upright.swapaxes(0, 1),
    6: np.rot90(upright),
    7: np.rot90(upright, 2).swapaxes(0, 1),
    8: np.rot90(upright, -1),
  }[orientation]
  exif = Image.Exif()
  exif[0x0112] = orientation
  content = encoded(
    Image.fromarray(np.ascontiguousarray(stored)),
    "JPEG",
    exif=exif,
    quality=100,
    subsampling=0,
  )
  found = read_image(content)
  assert found.shape == upright.shape
  assert np.abs(found.astype(int) - upright).max() < 8
  info = probe(content, "image")
  assert (info.height, info.width, info.codec) == (32, 48, "jpeg")


def test_transparent_pixels_are_laid_on_white():
  image = Image.new("RGBA", (2, 1))
  image.putpixel((0, 0), (10, 20, 30, 0))
  image.putpixel((1, 0), (0, 0, 0, 51))
  np.testing.assert_array_equal(
    read_image(encoded(image)), [[[255, 255, 255], [204, 204, 204]]]
  )
  grey = Image.new("LA", (1, 1), (100, 255))
  np.testing.assert_array_equal(read_image(encoded(grey)), [[[100, 100, 100]]])


def test_palettes_are_looked_up():
  image = Image.new("P", (3, 1))
  image.putpalette([0, 0, 0, 200, 10, 20, 30, 40, 50])
  for column in range(3):
    image.putpixel((column, 0), column)
  np.testing.assert_array_equal(
    read_image(encoded(image)), [[[0, 0, 0], [200, 10, 20], [30, 40, 50]]]
  )
  np.testing.assert_array_equal(
    read_image(encoded(image, transparency=1))[0, 1], [255, 255, 255]
  )


def test_sixteen_bits_of_grey_become_eight():
  values = np.array([[0, 128, 129, 257, 0x8000, 0xFFFF]], np.uint16)
  found = read_image(encoded(Image.fromarray(values)))
  expected = np.round(values / 257).astype(np.uint8)
  np.testing.assert_array_equal(found[..., 1], expected)
  np.testing.assert_array_equal(found[..., 0], found[..., 2])


@pytest.mark.parametrize("mode", ["1", "L", "CMYK"])
def test_other_colours_become_rgb(mode):
  image = Image.fromarray(PIXELS).convert(mode)
  np.testing.assert_array_equal(
    read_image(encoded(image, "TIFF")), np.asarray(image.convert("RGB"))
  )


def test_the_first_picture_of_an_animation_comes():
  first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4))
  content = encoded(first, "GIF", save_all=True, append_images=[second])
  np.testing.assert_array_equal(
    read_image(content), np.full((4, 4, 3), (255, 0, 0))
  )
  assert probe(content, "image").num_frames == 2


def test_pixels_of_no_known_range_are_refused():
  for values in (np.ones((2, 2), np.float32), np.full((2, 2), 70_000)):
    image = Image.fromarray(values.astype(values.dtype.char.replace("l", "i")))
    with pytest.raises(MediaError, match="no known range"):
      read_image(encoded(image, "TIFF"))


def test_headers_are_read():
  content = encoded(Image.fromarray(PIXELS))
  info = probe(content, "image")
  assert info.kind == "image" and info.num_frames == 1
  assert (info.height, info.width, info.codec) == (20, 30, "png")
  assert info.num_bytes == len(content) and info.duration is None


def test_more_pixels_than_allowed_are_refused(monkeypatch):
  content = encoded(Image.new("1", (300, 300)))
  # Pillow warns of one, and refuses the other.
  for limit in (80_000, 40_000):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for read in (read_image, lambda content: probe(content, "image")):
      with pytest.raises(MediaError, match="90000 pixels"):
        read(content)


def test_more_pixels_than_allowed_are_refused_without_a_warning(monkeypatch):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80_000)
  with pytest.warns(Image.DecompressionBombWarning):
    with pytest.raises(MediaError, match="MAX_IMAGE_PIXELS allows"):
      read_image(encoded(Image.new("1", (300, 300))))


def test_what_is_no_image_is_refused(tmp_path):
  whole = encoded(Image.fromarray(PIXELS))
  text = tmp_path / "text.png"
  text.write_text("No image.")
  postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n%%EOF\n"
  for content, reason in (
    (whole[: len(whole) // 2], "cannot read it"),
    (b"", "empty"),
    (text, "no image that Pillow knows"),
    (postscript, "no image that Pillow knows"),
    (tmp_path, "folder"),
    (pathlib.Path("missing.jpg"), "no such file"),
  ):
    with pytest.raises(MediaError, match=reason):
      read_image(content)


def test_broken_bytes_raise_nothing_but_media_errors():
  rng = np.random.default_rng(0)
  image = Image.fromarray(PIXELS)
  for form in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
    content = np.frombuffer(encoded(image, form), np.uint8)
    for _ in range(60):
      broken = content.copy()
      places = rng.integers(0, len(broken), 8)
      broken[places] = rng.integers(0, 256, 8)
      try:
        assert read_image(broken.tobytes()).shape[2] == 3
      except MediaError as error:
        assert error.reason
