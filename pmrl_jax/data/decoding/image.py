"""Images as upright RGB arrays, whatever form they are kept in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pmrl_jax.data.decoding.content import Content, name_of, open_binary
from pmrl_jax.data.decoding.errors import MediaError

# Formats that hold pixels; to read some others, Pillow would run a program.
_FORMATS = (
  "AVIF",
  "BMP",
  "GIF",
  "JPEG",
  "JPEG2000",
  "PNG",
  "PPM",
  "TIFF",
  "WEBP",
)


def read_image(content: Content) -> np.ndarray:
  """Decodes an image; of an animated one, its first picture.

  It is turned as its EXIF orientation says, transparent pixels are laid on
  white, palettes are looked up, and 16 bits of grey become 8.

  Args:
    content: the path of the file, or its bytes.

  Returns:
    uint8 `[height, width, channel]`, RGB.

  Raises:
    MediaError: if it cannot be read, has pixels without a known range, or is
      so large that it may be meant to exhaust memory
      (`PIL.Image.MAX_IMAGE_PIXELS`).
  """
  name = name_of(content)
  with open_image(content) as image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
      return _from_numbers(image, name)
    if image.has_transparency_data:
      image = image.convert("RGBA")
      white = Image.new("RGBA", image.size, "white")
      image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


@contextlib.contextmanager
def open_image(content: Content) -> Iterator[Image.Image]:
  """Opens an image with Pillow, reads its header, and closes it after.

  Args:
    content: the file.

  Yields:
    The image.

  Raises:
    MediaError: if it cannot be read; also for what Pillow raises later.
  """
  name = name_of(content)
  with open_binary(content) as file:
    try:
      Image.init()
      known = [form for form in _FORMATS if form in Image.OPEN]
      with Image.open(file, formats=known) as image:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
          raise MediaError(
            name,
            f"it has {image.width} x {image.height} pixels, more than the "
            f"{limit} that PIL.Image.MAX_IMAGE_PIXELS allows",
          )
        yield image
    except (MediaError, MemoryError):
      raise
    except UnidentifiedImageError as error:
      raise MediaError(name, "it is no image that Pillow knows") from error
    except Exception as error:
      # Which exceptions the readers of Pillow raise for broken files is not
      # said anywhere, and there are many.
      raise MediaError(name, f"Pillow cannot read it: {error}") from error


def _from_numbers(image: Image.Image, name: str) -> np.ndarray:
  """A grey image of 16 bits per pixel as RGB."""
  values = np.asarray(image)
  is_known = values.dtype.kind in "iu" and values.size
  if not is_known or values.min() < 0 or values.max() > 0xFFFF:
    raise MediaError(
      name,
      f"its pixels are numbers of type {values.dtype} and of no known range; "
      "save it with 8 or 16 bits",
    )
  grey = (values.astype(np.uint32) + 128) // 257  # to the nearest
  return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
