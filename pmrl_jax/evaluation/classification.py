"""Nearest-neighbour and linear classification of frozen embeddings.

How much of the classes the space holds, modality by modality and in the
leading direction of all of them.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from pmrl_jax.evaluation.embedding_set import (
  EmbeddingSet,
  check_embedding_set,
  direction_records,
  modality_records,
  normalised,
)


def knn_accuracy(
  train: np.ndarray,
  train_labels: np.ndarray,
  test: np.ndarray,
  test_labels: np.ndarray,
  *,
  k: int = 5,
) -> float:
  """Accuracy of a majority vote of the k nearest by cosine.

  Args:
    train: `[record, dim]`.
    train_labels: `[record]` int.
    test: `[query, dim]`.
    test_labels: `[query]` int.
    k: number of neighbours; no more than there are records.

  Returns:
    The share of correct answers, 0 to 1.

  Raises:
    ValueError: if shapes do not fit or k is out of range.
  """
  _check_split(train, train_labels, test, test_labels)
  if not 1 <= k <= len(train):
    raise ValueError(
      f"k must be from 1 to the {len(train)} training records, got {k}."
    )
  model = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
  model.fit(normalised(train), train_labels)
  return float(model.score(normalised(test), test_labels))


# At this size threads only wait for one another: a busy machine is 50 times
# slower with two of them than with one.
@threadpool_limits.wrap(limits=1)
def linear_probe_accuracy(
  train: np.ndarray,
  train_labels: np.ndarray,
  test: np.ndarray,
  test_labels: np.ndarray,
  *,
  max_iterations: int = 500,
) -> float:
  """Accuracy of a logistic regression on the normalised embeddings.

  Args:
    train: `[record, dim]`.
    train_labels: `[record]` int, two classes or more.
    test: `[query, dim]`.
    test_labels: `[query]` int.
    max_iterations: of L-BFGS. Where they do not suffice, a
      `ConvergenceWarning` says that the accuracy is that of an early stop.

  Returns:
    The share of correct answers, 0 to 1.

  Raises:
    ValueError: if shapes do not fit or there is one class only.
  """
  _check_split(train, train_labels, test, test_labels)
  if len(np.unique(train_labels)) < 2:
    raise ValueError(
      "a linear probe needs two classes or more in train_labels, got "
      f"{np.unique(train_labels).tolist()}."
    )
  # Coordinates of unit vectors are about 1/sqrt(dim); at that scale the
  # default penalty would measure the penalty, not the embeddings.
  scale = np.sqrt(np.shape(train)[1])
  model = LogisticRegression(max_iter=max_iterations)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)
    model.fit(normalised(train) * scale, train_labels)
  if np.max(model.n_iter_) >= max_iterations:
    warnings.warn(
      f"the linear probe stopped at {max_iterations} iterations before it "
      "converged; its accuracy may be too low. Raise max_iterations.",
      ConvergenceWarning,
      stacklevel=2,
    )
  return float(model.score(normalised(test) * scale, test_labels))


def probe(
  train_set: EmbeddingSet, test_set: EmbeddingSet
) -> dict[str, dict[str, float]]:
  """Probes each modality and the leading direction of all of them.

  Args:
    train_set: embeddings to learn from, with labels.
    test_set: embeddings of other records, with labels.

  Returns:
    {"image": {"knn": accuracy, "linear": accuracy}, ...,
    "leading_direction": {...}}, over distinct records.

  Raises:
    ValueError: if a set is malformed or has no labels, or if the modalities
      of the two differ.
  """
  for embedding_set in (train_set, test_set):
    check_embedding_set(embedding_set, "class")
  if train_set.modalities != test_set.modalities:
    raise ValueError(
      "train_set and test_set must hold the same modalities in the same "
      f"order, got {train_set.modalities} and {test_set.modalities}."
    )
  pairs = {
    name: (modality_records(train_set, name), modality_records(test_set, name))
    for name in train_set.modalities
  }
  pairs["leading_direction"] = (
    direction_records(train_set),
    direction_records(test_set),
  )
  results = {}
  for name, (train, test) in pairs.items():
    # The check above guarantees labels.
    train_labels, test_labels = np.array(train.labels), np.array(test.labels)
    data = (train.vectors, train_labels, test.vectors, test_labels)
    results[name] = {
      "knn": knn_accuracy(*data, k=max(1, min(5, len(train.vectors)))),
      "linear": linear_probe_accuracy(*data),
    }
  return results


def _check_split(
  train: np.ndarray,
  train_labels: np.ndarray,
  test: np.ndarray,
  test_labels: np.ndarray,
) -> None:
  """Raises unless the four arrays of a probe fit together."""
  for name, vectors, labels in (
    ("train", train, train_labels),
    ("test", test, test_labels),
  ):
    if np.ndim(vectors) != 2 or np.shape(labels) != np.shape(vectors)[:1]:
      raise ValueError(
        f"{name} must be [record, dim] with one label per record, got shapes "
        f"{np.shape(vectors)} and {np.shape(labels)}."
      )
    if not len(vectors):
      raise ValueError(
        f"{name} holds no record: its split is empty, or the modality is "
        "absent from all of its instances."
      )
  if np.shape(train)[1] != np.shape(test)[1]:
    raise ValueError(
      "train and test must have the same dim, got "
      f"{np.shape(train)[1]} and {np.shape(test)[1]}."
    )
