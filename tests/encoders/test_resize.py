"""Resizing as PyTorch does it: golden values, and what must hold anyway."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.encoders import resize as rs

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "ckpt_adapt.npz"
POSITIONS = "vision_encoder.visual.pos_embed"


@pytest.fixture(scope="module")
def golden():
  with np.load(GOLDEN, allow_pickle=False) as arrays:
    return dict(arrays)


def close(actual, expected):
  scale = np.abs(expected).max()
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("wrap", [np.asarray, jnp.asarray])
def test_positions_are_resized_as_by_the_published_loader(golden, wrap):
  positions = wrap(golden[f"in/{POSITIONS}"])
  bilinear = rs.resize_positions(positions, (4, 4), method="bilinear")
  close(bilinear, golden[f"out/modify_checkpoint/{POSITIONS}"])
  bicubic = rs.resize_positions(positions, (4, 4), method="bicubic")
  close(bicubic, golden["out/evaclip_file/visual.pos_embed"])
  assert isinstance(bilinear, jax.Array) == isinstance(positions, jax.Array)


def test_nearest_indices_are_those_of_pytorch(golden):
  tables = [key for key in golden if key.startswith("out/nearest_index/")]
  assert len(tables) == 8
  for key in tables:
    size, new_size = map(int, key.rpartition("/")[2].split("_to_"))
    assert rs.nearest_indices(size, new_size).tolist() == golden[key].tolist()


@pytest.mark.parametrize("name", ["vision", "audio"])
def test_frames_are_resized_as_by_the_published_loader(golden, name):
  key = f"{name}_frame_embedding"
  expected = golden[f"out/modify_checkpoint/{key}"]
  actual = rs.resize(
    golden[f"in/{key}"], {1: expected.shape[1]}, method="nearest"
  )
  np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("sizes", [(6, 4), (4, 7), (1, 3), (5, 1)])
def test_constants_stay_constant(method, sizes):
  matrix = rs.interpolation_matrix(*sizes, method=method)
  np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)


def test_linear_ramps_stay_linear_inside():
  ramp = np.arange(12.0)
  for method in ("bilinear", "bicubic"):
    resized = rs.resize(ramp, {0: 24}, method=method)[6:-6]
    expected = (np.arange(24) + 0.5) / 2 - 0.5
    if method == "bilinear":
      np.testing.assert_allclose(resized, expected[6:-6], atol=1e-12)
    # The kernel with -0.75 is not exact for ramps, only nearly so.
    np.testing.assert_allclose(resized, expected[6:-6], atol=0.05)


def test_one_size_changes_nothing_and_dtypes_stay():
  array = np.arange(12, dtype=np.float32).reshape(3, 4)
  assert rs.resize(array, {0: 3, 1: 4}, method="bicubic") is array
  half = jnp.ones((3, 4), jnp.bfloat16)
  assert rs.resize(half, {0: 5}, method="bilinear").dtype == jnp.bfloat16


def test_resized_positions_have_gradients_under_jit():
  positions = jnp.ones((1, 10, 2))

  @jax.jit
  def total(x):
    return rs.resize_positions(x, (2, 5), method="bicubic").sum()

  gradient = jax.grad(total)(positions)
  assert gradient.shape == positions.shape
  np.testing.assert_allclose(gradient.sum(), 22, rtol=1e-6)


@pytest.mark.parametrize(
  "shape", [(1, 11, 4), (2, 10, 4), (1, 1, 4), (10, 4), (1, 0, 4)]
)
def test_positions_of_no_square_are_refused(shape):
  with pytest.raises(ValueError, match=r"class token and a square"):
    rs.resize_positions(np.zeros(shape), (2, 2), method="bicubic")


def test_what_is_unknown_is_refused():
  with pytest.raises(ValueError, match="one of .*'bicubic'.*got 'lanczos'"):
    rs.resize(np.zeros(3), {0: 4}, method="lanczos")
  with pytest.raises(ValueError, match="sizes must be positive"):
    rs.resize(np.zeros(3), {0: 0}, method="nearest")
