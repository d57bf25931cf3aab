"""Makes vision_towers.npz: EVA02 and EVA-E of timm, CLIP of open_clip.

Needs numpy, torch, timm and open_clip_torch:

  python tests/goldens/make_vision.py tests/goldens/vision_towers.npz

The towers are tiny and every tensor is random, so that no bias, norm or token
is left at zero or one. Keys of the result are those of tests/goldens/README.md
and those of published files, whatever the names inside the libraries are.
"""

import sys
from collections.abc import Callable

import numpy as np
import open_clip
import open_clip.transformer
import timm
import timm.models.eva
import torch

PATCH, SIDE, WIDTH, HEADS, DEPTH, HEAD_WIDTH = 6, 4, 24, 2, 2, 10
# Another grid than the trained one, and no square.
OTHER = (3, 5)

# What the files of the EVA-CLIP repository call the parts of timm's models.
SPLIT_NAMES = {
  "attn.norm.": "attn.inner_attn_ln.",
  "attn.q_proj.bias": "attn.q_bias",
  "attn.v_proj.bias": "attn.v_bias",
  "mlp.norm.": "mlp.ffn_ln.",
  "mlp.fc1_g.": "mlp.w1.",
  "mlp.fc1_x.": "mlp.w2.",
  "mlp.fc2.": "mlp.w3.",
}
EVA = {
  "img_size": PATCH * SIDE,
  "patch_size": PATCH,
  "num_classes": HEAD_WIDTH,
  "global_pool": "token",
  "embed_dim": WIDTH,
  "depth": DEPTH,
  "num_heads": HEADS,
  "dynamic_img_size": False,
}
EVA02 = {
  **EVA,
  "qkv_fused": False,
  "mlp_ratio": 20 / WIDTH,
  "swiglu_mlp": True,
  "scale_mlp": True,
  "scale_attn_inner": True,
  "use_rot_pos_emb": True,
  "ref_feat_shape": (5, 5),
}
EVA_POST_NORM = {**EVA, "mlp_ratio": 20 / WIDTH, "use_post_norm": True}


def clip(
  image_size: int | tuple[int, int], activation: Callable
) -> torch.nn.Module:
  return open_clip.transformer.VisionTransformer(
    image_size=image_size,
    patch_size=PATCH,
    width=WIDTH,
    layers=DEPTH,
    heads=HEADS,
    mlp_ratio=20 / WIDTH,
    output_dim=HEAD_WIDTH,
    act_layer=activation,
  )


# How every tower is made, for images of a size.
TOWERS: dict[str, Callable] = {
  "eva02": lambda size: timm.models.eva.Eva(**{**EVA02, "img_size": size}),
  "eva_post_norm": lambda size: timm.models.eva.Eva(
    **{**EVA_POST_NORM, "img_size": size}
  ),
  "clip": lambda size: clip(size, open_clip.transformer.QuickGELU),
  "clip_gelu": lambda size: clip(size, torch.nn.GELU),
}


# Towers with one seed have the same weights; they are written once.
SEEDS = {"eva02": 0, "eva_post_norm": 1, "clip": 2, "clip_gelu": 2}

# Towers of full size: what timm and open_clip call them.
FULL_SIZE = {
  "EVA01-CLIP-g-14": ("eva_giant_patch14_clip_224", 1024),
  "EVA02-CLIP-B-16": ("eva02_base_patch16_clip_224", 512),
  "EVA02-CLIP-L-14": ("eva02_large_patch14_clip_224", 768),
  "EVA02-CLIP-L-14-336": ("eva02_large_patch14_clip_336", 768),
  "EVA02-CLIP-bigE-14": ("eva02_enormous_patch14_clip_224", 1024),
  "ViT-B-32": ("ViT-B-32", 512),
  "ViT-B-16": ("ViT-B-16", 512),
  "ViT-L-14": ("ViT-L-14", 768),
  "ViT-L-14-336": ("ViT-L-14-336", 768),
  "ViT-H-14": ("ViT-H-14", 1024),
  "ViT-bigG-14": ("ViT-bigG-14", 1280),
}


def randomised(module: torch.nn.Module, seed: int) -> torch.nn.Module:
  """The module with seeded normal parameters, norms around one."""
  generator = torch.Generator().manual_seed(seed)
  for name, tensor in module.named_parameters():
    with torch.no_grad():
      tensor.normal_(0.0, 0.2, generator=generator)
      if "norm" in name and name.endswith("weight"):
        tensor.add_(1.0)
      elif "ln_" in name and name.endswith("weight"):
        tensor.add_(1.0)
  return module.eval()


def published_key(key: str, tower: str) -> str:
  if tower.lower().startswith("eva02") and "bigE" not in tower:
    for inside, published in SPLIT_NAMES.items():
      key = key.replace(inside, published)
  return key


def run(
  module: torch.nn.Module, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
  """All tokens after the last norm, and what the head makes of the first."""
  kept = []
  norm = module.norm if hasattr(module, "norm") else module.ln_post
  hook = norm.register_forward_hook(lambda *args: kept.append(args[2]))
  embedding = module(images)
  hook.remove()
  return kept[0], embedding


def with_other_grid(tower: str, module: torch.nn.Module) -> torch.nn.Module:
  """A tower of the same weights for images of another grid of patches."""
  other = TOWERS[tower](tuple(PATCH * side for side in OTHER))
  tensors = module.state_dict()
  name = "pos_embed" if "pos_embed" in tensors else "positional_embedding"
  positions = tensors[name].reshape(-1, WIDTH)
  patches = positions[1:].reshape(1, SIDE, SIDE, WIDTH).permute(0, 3, 1, 2)
  patches = torch.nn.functional.interpolate(
    patches, size=OTHER, mode="bicubic", align_corners=False
  )
  patches = patches.permute(0, 2, 3, 1).reshape(-1, WIDTH)
  tensors[name] = torch.cat([positions[:1], patches]).reshape(
    other.state_dict()[name].shape
  )
  other.load_state_dict(tensors)
  return other.eval()


def full_size_shapes(tower: str) -> dict[str, list[int]]:
  """The parameters of a published tower, made without its memory."""
  name, head_width = FULL_SIZE[tower]
  with torch.device("meta"):
    if tower.startswith("EVA"):
      module = timm.create_model(name, num_classes=head_width)
    else:
      module = open_clip.create_model(name, device="meta").visual
  return {
    published_key(key, tower): list(tensor.shape)
    for key, tensor in module.named_parameters()
  }


def numpy(tensor: torch.Tensor) -> np.ndarray:
  return tensor.detach().numpy().copy()


def golden() -> dict[str, np.ndarray]:
  """All arrays of the file."""
  random = np.random.default_rng(0)

  def normal(*shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)

  images = normal(2, 3, PATCH * SIDE, PATCH * SIDE)
  other_images = normal(1, 3, *(PATCH * side for side in OTHER))
  cotangent = normal(2, 1 + SIDE * SIDE, WIDTH)
  arrays = {
    "in/images": images,
    "in/other_images": other_images,
    "in/cotangent": cotangent,
  }
  for tower, make in TOWERS.items():
    module = randomised(make(PATCH * SIDE), SEEDS[tower])
    tokens, embedding = run(module, torch.from_numpy(images))
    (tokens * torch.from_numpy(cotangent)).sum().backward()
    for key, tensor in module.named_parameters():
      if tower == "clip_gelu":
        continue
      key = published_key(key, tower)
      arrays[f"{tower}/param/{key}"] = numpy(tensor)
      if tensor.grad is not None:
        arrays[f"{tower}/grad/{key}"] = numpy(tensor.grad)
    arrays[f"{tower}/out/tokens"] = numpy(tokens)
    arrays[f"{tower}/out/embedding"] = numpy(embedding)
    other = with_other_grid(tower, module)
    arrays[f"{tower}/out/other_tokens"] = numpy(
      run(other, torch.from_numpy(other_images))[0]
    )
    if tower == "eva02":
      # The rows of timm's table are sines, then cosines.
      sines, cosines = module.rope.get_embed().chunk(2, dim=-1)
      arrays[f"{tower}/buffer/rope.freqs_cos"] = numpy(cosines)
      arrays[f"{tower}/buffer/rope.freqs_sin"] = numpy(sines)
  return arrays


if __name__ == "__main__":
  np.savez_compressed(sys.argv[1], **golden())
