import itertools

import numpy as np
import pytest

from pmrl_jax.evaluation import (
  between_cosine,
  flipped_share,
  mean_spectrum,
  pair_cosines,
)


def unit(vectors):
  vectors = np.float64(vectors)
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_mean_spectrum_equals_the_svd_of_complete_instances(make_set):
  data = make_set(missing=0.2)
  complete = data.where.all(axis=1)
  assert 0 < complete.sum() < 60
  values = [
    np.linalg.svd(rows, compute_uv=False)
    for rows in unit(data.embeddings[complete])
  ]
  np.testing.assert_allclose(
    mean_spectrum(data), np.mean(values, axis=0), atol=1e-5
  )


def test_spectrum_of_aligned_and_of_orthogonal_modalities(make_set):
  data = make_set(4)
  aligned = np.broadcast_to(data.embeddings[:, :1], data.embeddings.shape)
  np.testing.assert_allclose(
    mean_spectrum(data._replace(embeddings=aligned)),
    [3**0.5, 0, 0],
    atol=1e-3,
  )
  orthogonal = np.tile(np.eye(3, 16, dtype=np.float32), (4, 1, 1))
  np.testing.assert_allclose(
    mean_spectrum(data._replace(embeddings=orthogonal)), 1, rtol=1e-6
  )


def test_spectrum_is_unknown_if_no_instance_is_complete(make_set):
  data = make_set()
  data.where[:, 2] = False
  assert mean_spectrum(data) is None


def test_pair_cosines_equal_the_naive_ones(make_set):
  data = make_set(missing=0.3, noise=2.0)
  vectors = unit(data.embeddings)
  all_cosines = []
  for i, j in itertools.combinations(range(3), 2):
    cosines = [
      vectors[b, i] @ vectors[b, j]
      for b in range(60)
      if data.where[b, i] and data.where[b, j]
    ]
    pair = pair_cosines(data)[data.modalities[i], data.modalities[j]]
    np.testing.assert_allclose(pair.mean, np.mean(cosines))
    np.testing.assert_allclose(pair.flipped_share, np.mean(np.less(cosines, 0)))
    assert pair.num_pairs == len(cosines)
    all_cosines += cosines
  expected = np.mean(np.less(all_cosines, 0))
  assert 0 < expected < 1
  np.testing.assert_allclose(flipped_share(data), expected)


def test_a_flipped_modality_shows_in_the_share_but_not_in_the_spectrum(
  make_set,
):
  data = make_set(noise=0.1)
  embeddings = data.embeddings * np.float32([[[1], [-1], [1]]])
  flipped = data._replace(embeddings=embeddings)
  assert flipped_share(data) == 0
  np.testing.assert_allclose(flipped_share(flipped), 2 / 3)
  np.testing.assert_allclose(
    mean_spectrum(flipped), mean_spectrum(data), atol=1e-5
  )


def test_pairs_that_never_occur_together_are_left_out(make_set):
  data = make_set()
  data.where[:30, 0] = False
  data.where[30:, 1] = False
  assert set(pair_cosines(data)) == {("image", "text"), ("speech", "text")}
  data.where[:, 2] = False
  with pytest.raises(ValueError, match="no instance has two modalities"):
    flipped_share(data)


@pytest.mark.parametrize("level", ["class", "instance"])
def test_between_cosine_equals_the_loop_over_pairs(make_set, level):
  data = make_set(20, missing=0.3)
  masked = np.where(data.where[..., None], unit(data.embeddings), 0)
  present = data.where.any(axis=1)
  directions = unit(masked.sum(axis=1)[present])
  labels = data.labels[present]
  cosines = [
    directions[i] @ directions[j]
    for i, j in itertools.permutations(range(len(directions)), 2)
    if level == "instance" or labels[i] != labels[j]
  ]
  np.testing.assert_allclose(
    between_cosine(data, level=level), np.mean(cosines), atol=1e-6
  )


def test_between_cosine_is_one_in_a_collapsed_space(make_set):
  data = make_set()
  collapsed = data._replace(embeddings=np.ones_like(data.embeddings))
  np.testing.assert_allclose(between_cosine(collapsed, level="class"), 1)


def test_between_cosine_of_one_class_is_unknown(make_set):
  assert between_cosine(make_set(num_classes=1), level="class") is None
  assert between_cosine(make_set(1), level="instance") is None
