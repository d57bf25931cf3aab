import collections

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from pmrl_jax.evaluation import (
  knn_accuracy,
  linear_probe_accuracy,
  probe,
)


def clusters(seed, num_records=90, *, noise=0.6, dim=6):
  rng = np.random.default_rng(seed)
  labels = np.arange(num_records) % 3
  centres = np.random.default_rng(7).normal(size=(3, dim))
  return centres[labels] + noise * rng.normal(size=(num_records, dim)), labels


@pytest.mark.parametrize("k", [1, 3, 7])
def test_knn_equals_a_naive_vote_by_cosine(k):
  (train, train_labels), (test, test_labels) = clusters(0), clusters(1)
  correct = []
  for vector, label in zip(test, test_labels):
    cosines = train @ vector / np.linalg.norm(train, axis=1)
    votes = collections.Counter(train_labels[np.argsort(-cosines)[:k]])
    best = max(votes.values())
    winner = min(name for name, count in votes.items() if count == best)
    correct.append(winner == label)
  actual = knn_accuracy(train, train_labels, test, test_labels, k=k)
  assert actual == pytest.approx(np.mean(correct))
  assert 0.5 < actual < 1


def test_separable_classes_are_classified_perfectly():
  train, test = clusters(0, noise=0.01), clusters(1, noise=0.01)
  assert knn_accuracy(*train, *test) == 1
  assert linear_probe_accuracy(*train, *test) == 1


def test_random_labels_are_classified_by_chance():
  rng = np.random.default_rng(0)
  train, test = rng.normal(size=(2, 900, 8))
  labels = rng.integers(0, 3, (2, 900))
  for accuracy in (knn_accuracy, linear_probe_accuracy):
    # Five standard deviations of a share of 900.
    assert abs(accuracy(train, labels[0], test, labels[1]) - 1 / 3) < 0.08


def test_accuracies_ignore_the_length_of_embeddings():
  (train, train_labels), (test, test_labels) = clusters(0), clusters(1)
  lengths = np.random.default_rng(0).uniform(0.1, 10, (2, 90, 1))
  for accuracy in (knn_accuracy, linear_probe_accuracy):
    assert accuracy(
      train * lengths[0], train_labels, test * lengths[1], test_labels
    ) == accuracy(train, train_labels, test, test_labels)


def test_a_probe_that_stops_early_says_so():
  with pytest.warns(ConvergenceWarning, match="stopped at 2 iterations"):
    linear_probe_accuracy(*clusters(0), *clusters(1), max_iterations=2)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"k": 0}, "k must be from 1 to the 90"),
    ({"k": 91}, "k must be from 1 to the 90"),
    ({"train_labels": np.zeros(5, int)}, "train must be .* one label"),
    ({"test": np.zeros((90, 5))}, "same dim"),
    ({"test": np.zeros(90)}, r"test must be \[record, dim\]"),
    (
      {"test": np.zeros((0, 6)), "test_labels": np.zeros(0)},
      "test holds no record",
    ),
  ],
)
def test_wrong_splits_are_explained(change, message):
  (train, train_labels), (test, test_labels) = clusters(0), clusters(1)
  arguments = {
    "train": train,
    "train_labels": train_labels,
    "test": test,
    "test_labels": test_labels,
  } | change
  with pytest.raises(ValueError, match=message):
    knn_accuracy(**arguments)


def test_a_linear_probe_needs_two_classes():
  train, _ = clusters(0)
  with pytest.raises(ValueError, match="two classes or more"):
    linear_probe_accuracy(train, np.zeros(90, int), *clusters(1))


def test_probe_covers_every_modality_and_the_leading_direction(make_set):
  train, test = make_set(noise=1.0), make_set(seed=1, noise=1.0)
  result = probe(train, test)
  assert list(result) == ["image", "speech", "text", "leading_direction"]
  single = [result[name]["linear"] for name in test.modalities]
  # The direction averages the noise of three modalities away.
  assert result["leading_direction"]["linear"] > max(single)
  assert result["image"]["knn"] == knn_accuracy(
    train.embeddings[:, 0],
    train.labels,
    test.embeddings[:, 0],
    test.labels,
    k=5,
  )


def test_probe_counts_a_repeated_record_once(make_set):
  train, test = make_set(noise=1.0), make_set(seed=1, noise=1.0)
  rows = np.r_[np.arange(60), [0] * 30]
  repeated = test._replace(
    embeddings=test.embeddings[rows],
    where=test.where[rows],
    labels=test.labels[rows],
    items=test.items[rows],
  )
  assert probe(train, repeated) == probe(train, test)


def test_probe_needs_labels_and_equal_modalities(make_set):
  data = make_set()
  with pytest.raises(ValueError, match="needs labels"):
    probe(data, data._replace(labels=None))
  with pytest.raises(ValueError, match="same modalities"):
    probe(data, data._replace(modalities=("image", "text", "speech")))
