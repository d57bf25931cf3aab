"""Synthetic evaluation splits."""

import numpy as np
import pytest

from pmrl_jax.evaluation import EmbeddingSet


def _make_set(
  num_instances=60,
  modalities=("image", "speech", "text"),
  *,
  num_classes=5,
  dim=16,
  noise=0.5,
  missing=0.0,
  seed=0,
):
  """Instances whose modalities are noisy copies of their class's centre."""
  rng = np.random.default_rng(seed)
  size = len(modalities)
  labels = np.arange(num_instances) % num_classes
  centres = np.random.default_rng(99).normal(size=(num_classes, dim))
  embeddings = centres[labels][:, None] + noise * rng.normal(
    size=(num_instances, size, dim)
  )
  where = rng.random((num_instances, size)) >= missing
  items = np.tile(np.arange(num_instances)[:, None], (1, size))
  return EmbeddingSet(
    embeddings.astype(np.float32), where, tuple(modalities), labels, items
  )


@pytest.fixture
def make_set():
  return _make_set
