"""Images: the vision transformer (ViT)."""

import flax.linen as nn
import jax

from pmrl_jax.encoders.transformer import TransformerEncoder


class VisionTransformer(TransformerEncoder, kw_only=True):
  """A ViT with learned positions and mean pooling instead of a class token.

  Of a video it encodes every frame and returns their mean.

  Reference: Dosovitskiy et al., An Image Is Worth 16x16 Words, arXiv
  2010.11929; mean pooling as in Beyer et al., Better plain ViT baselines for
  ImageNet-1k, arXiv 2205.01580.

  Attributes:
    patch_size: Side of a square patch in pixels.
    The others: See `TransformerEncoder`.
  """

  patch_size: int

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Encodes images.

    Args:
      images: Float `[batch, height, width, channel]`, about unit scale, or
        videos `[batch, frame, height, width, channel]`.
      train: Whether dropout is on.

    Returns:
      `[batch, width]`.

    Raises:
      ValueError: If the input is no batch of images or its sides are no
        multiples of the patch size.
    """
    if images.ndim not in (4, 5):
      raise ValueError(
        "VisionTransformer expects images [batch, height, width, channel] or "
        "videos [batch, frame, height, width, channel], got shape "
        f"{images.shape}"
      )
    *batch, h, w, c = images.shape
    images = images.reshape(-1, h, w, c)
    b = len(images)
    p = self.patch_size
    if h % p or w % p:
      raise ValueError(
        f"image sides must be multiples of the patch size, got {h}x{w} pixels "
        f"and patch_size {p}; resize the images or choose another patch size"
      )
    patches = images.reshape(b, h // p, p, w // p, p, c)
    patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, p * p * c)
    tokens = self.project(patches, name="patch_embedding")
    encoded = self.encode(tokens, train=train)
    # A video has one more axis; its frames are averaged.
    return encoded.reshape(*batch, -1).mean(axis=tuple(range(1, len(batch))))
