"""Each mistake gets a message that names what was expected and what came."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pmrl_jax.losses import (
  alignment_loss,
  bounded_temperature,
  instance_contrastive_loss,
  pairwise_contrastive_loss,
  pmrl_loss,
  singular_spectrum,
)

X = jnp.ones((4, 3, 5))
U = jnp.ones((4, 5))


def align(x, **kwargs):
  return alignment_loss(x, temperature=0.1, **kwargs)


def repel(x, **kwargs):
  return instance_contrastive_loss(x, temperature=0.1, **kwargs)


of_embeddings = pytest.mark.parametrize(
  "loss", [singular_spectrum, align, pmrl_loss]
)


@of_embeddings
@pytest.mark.parametrize("shape", [(3, 5), (5,), (2, 4, 3, 5)])
def test_rank_of_embeddings(loss, shape):
  with pytest.raises(ValueError, match=r"\[batch, modality, dim\], got \("):
    loss(jnp.ones(shape))


@of_embeddings
@pytest.mark.parametrize("num_modalities", [0, 1])
def test_fewer_than_two_modalities(loss, num_modalities):
  with pytest.raises(ValueError, match=r"two modalities .* jnp\.stack"):
    loss(jnp.ones((4, num_modalities, 5)))


@of_embeddings
@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_dtype_of_embeddings(loss, dtype):
  with pytest.raises(TypeError, match=f"floating-point .* got dtype {dtype}"):
    loss(jnp.ones((4, 3, 5), dtype))


@of_embeddings
def test_mask_of_modalities(loss):
  with pytest.raises(TypeError, match="must be bool .* got dtype float32"):
    loss(X, where=jnp.ones((4, 3)))
  with pytest.raises(ValueError, match=r"= \(4, 3\), got \(4,\)"):
    loss(X, where=jnp.ones(4, bool))


@of_embeddings
def test_unknown_choices(loss):
  with pytest.raises(ValueError, match="`solver` .*'svd', 'gram'; got 'qr'"):
    loss(X, solver="qr")
  with pytest.raises(
    ValueError,
    match="`orientation` .*'free', 'lifted', 'consensus'; got 'up'",
  ):
    loss(X, orientation="up")


def test_unknown_contrast():
  with pytest.raises(
    ValueError, match="'directions', 'modalities', 'pairs'; got 'all'"
  ):
    pmrl_loss(X, contrast="all")


def test_directions_and_their_mask():
  with pytest.raises(ValueError, match=r"\[batch, dim\], got \(4, 3, 5\)"):
    repel(X)
  with pytest.raises(TypeError, match="floating-point .* got dtype int32"):
    repel(jnp.ones((4, 5), jnp.int32))
  with pytest.raises(TypeError, match=r"bool \[batch\], got dtype int32"):
    repel(U, where=jnp.ones(4, jnp.int32))
  with pytest.raises(ValueError, match=r"\[batch\] = \(4,\), got \(3,\)"):
    repel(U, where=jnp.ones(3, bool))


@pytest.mark.parametrize("loss,x", [(repel, U), (pmrl_loss, X)])
def test_ids(loss, x):
  with pytest.raises(TypeError, match="integers .* got dtype float32"):
    loss(x, ids=jnp.ones(4))
  with pytest.raises(ValueError, match=r"\(4,\), got \(4, 1\)"):
    loss(x, ids=jnp.ones((4, 1), jnp.int32))


@pytest.mark.parametrize("value", [0, 0.0, -0.1, float("nan"), np.float32(0)])
def test_temperatures_that_are_not_positive(value):
  with pytest.raises(ValueError, match="`temperature` must be positive, got"):
    alignment_loss(X, temperature=value)
  with pytest.raises(ValueError, match="`temperature` must be positive, got"):
    instance_contrastive_loss(U, temperature=value)
  for name in ("alignment_temperature", "instance_temperature"):
    with pytest.raises(ValueError, match=f"`{name}` must be positive, got"):
      pmrl_loss(X, **{name: value})


def test_temperatures_that_are_no_scalars():
  with pytest.raises(ValueError, match=r"must be a scalar, got shape \(1,\)"):
    alignment_loss(X, temperature=jnp.ones(1))


@of_embeddings
def test_a_mesh_whose_axes_are_explicit(loss):
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
  x = jax.device_put(X, NamedSharding(mesh, PartitionSpec("data")))
  with (
    jax.set_mesh(mesh),
    pytest.raises(ValueError, match=r"\['data'\], which are Explicit.*Auto"),
  ):
    jax.jit(loss)(x)


def test_auto_axes_is_the_way_out_of_an_explicit_mesh():
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
  x = jax.random.normal(jax.random.key(0), X.shape)
  expected = align(x)
  with jax.set_mesh(mesh):
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    loss = jax.sharding.auto_axes(align, out_sharding=PartitionSpec("data"))
    np.testing.assert_allclose(jax.jit(loss)(split), expected, rtol=1e-5)


CONTRASTIVE = {
  "instance": lambda **options: instance_contrastive_loss(
    U, temperature=0.1, **options
  ),
  "pmrl": lambda **options: pmrl_loss(X, **options),
  "pairwise": lambda **options: pairwise_contrastive_loss(
    X, temperature=0.1, **options
  ),
}
of_contrast = pytest.mark.parametrize("name", CONTRASTIVE)


@of_contrast
def test_sizes_of_blocks(name):
  loss = CONTRASTIVE[name]
  for size in (0, -4):
    with pytest.raises(
      ValueError, match=f"positive integer or None, got {size}"
    ):
      loss(block_size=size)
  for size in (1.5, "8", True):
    with pytest.raises(TypeError, match="`block_size` must be a positive int"):
      loss(block_size=size)


@of_contrast
def test_axes_that_do_not_exist(name):
  with pytest.raises(ValueError, match="'data', but no such axis is mapped"):
    CONTRASTIVE[name](axis_name="data")
  with pytest.raises(ValueError, match="needs `axis_name`, got None"):
    CONTRASTIVE[name](ring=True)


@of_contrast
def test_label_smoothing_out_of_range(name):
  for value in (-0.1, 1.0, float("nan")):
    with pytest.raises(ValueError, match="from 0 to below 1, got"):
      CONTRASTIVE[name](label_smoothing=value)
  with pytest.raises(TypeError, match="must be a Python number"):
    CONTRASTIVE[name](label_smoothing=jnp.ones(()))


def test_anchors():
  for anchor in (3, -4):
    with pytest.raises(
      ValueError, match=f"one of the 3 modalities, got {anchor}"
    ):
      pairwise_contrastive_loss(
        X, temperature=1.0, pairs="anchor", anchor=anchor
      )
  with pytest.raises(
    TypeError, match="index of a modality, an integer, got 1.0"
  ):
    pairwise_contrastive_loss(X, temperature=1.0, pairs="anchor", anchor=1.0)
  with pytest.raises(
    ValueError, match="`pairs` must be one of 'all', 'anchor'"
  ):
    pairwise_contrastive_loss(X, temperature=1.0, pairs="some")


def test_sample_weights():
  with pytest.raises(ValueError, match=r"= \(4,\), got \(4, 3\)"):
    pmrl_loss(X, sample_weights=jnp.ones((4, 3)))
  with pytest.raises(TypeError, match="real numbers .* got dtype complex64"):
    pmrl_loss(X, sample_weights=jnp.ones(4, jnp.complex64))


def test_bounds_of_a_learned_temperature():
  for bounds in ({"minimum": 0.0}, {"minimum": 2.0}, {"maximum": -1.0}):
    with pytest.raises(ValueError, match="positive temperatures in that order"):
      bounded_temperature(0.0, **bounds)
  with pytest.raises(ValueError, match=r"must be a scalar, got shape \(2,\)"):
    bounded_temperature(jnp.zeros(2))


def test_unknown_power():
  with pytest.raises(ValueError, match="`power` must be one of 1, 2; got 3"):
    align(X, power=3)


def test_mistakes_are_found_under_jit():
  with pytest.raises(ValueError, match="two modalities"):
    jax.jit(pmrl_loss)(jnp.ones((4, 1, 5)))
