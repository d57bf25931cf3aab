"""What is measured of one training, and what is said of several."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.compare.view_sets import Rows
from pmrl_jax import evaluation
from pmrl_jax.losses import singular_spectrum

_CONFIDENCE = 0.95


class Interval(NamedTuple):
  """A mean over seeds and how far off it may be."""

  mean: float
  half_width: float | None  # None if there is one value only


def interval(values: Sequence[float]) -> Interval:
  """The mean of a sample and its 95 % interval by Student's t.

  Args:
    values: One per seed.

  Returns:
    The mean and half of the interval's width, or None for a single value.

  >>> interval([1.0, 2.0, 3.0]).mean
  2.0
  """
  mean = float(np.mean(values))
  if len(values) < 2:
    return Interval(mean, None)
  quantile = stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1)
  error = np.std(values, ddof=1) / math.sqrt(len(values))
  return Interval(mean, float(quantile * error))


def level_with(values: Mapping[int, float], best: Mapping[int, float]) -> bool:
  """Whether seeds do not tell a loss from the best one.

  Seeds are paired, for the same seed gives the same initial parameters and
  the same batches: the 95 % interval of the difference must hold 0.

  Args:
    values: `{seed: value}` of the loss.
    best: `{seed: value}` of the best loss.

  Returns:
    True if they are level; for less than two seeds, if they are equal.
  """
  common = values.keys() & best.keys()
  if not common:
    return False
  mean, half_width = interval([values[s] - best[s] for s in sorted(common)])
  return abs(mean) <= (half_width or 0.0)


def measure_retrieval(embeddings: np.ndarray, rows: Rows) -> dict[str, Any]:
  """Measures one part.

  Args:
    embeddings: `[instance, modality, dim]`.
    rows: What was embedded.

  Returns:
    "R@1" by direction; "mean_R@1" and "worst_R@1" over the ordered pairs of
    modalities; "rest_R@1", from one modality to the direction of the others;
    and "flipped_share", the share of true pairs with a negative cosine.
  """
  num_instances, num_modalities, _ = embeddings.shape
  items = np.arange(num_instances)[:, None].repeat(num_modalities, axis=1)
  embedding_set = evaluation.EmbeddingSet(
    embeddings,
    np.ones(items.shape, bool),
    tuple(rows.views),
    rows.labels,
    items,
  )
  retrieval = evaluation.cross_modal_retrieval(
    embedding_set, level="instance", ks=(1,)
  )
  recall = {name: scores["R@1"] for name, scores in retrieval.items()}
  is_rest = {name: name.endswith("->rest") for name in recall}
  pairs = [value for name, value in recall.items() if not is_rest[name]]
  rest = [value for name, value in recall.items() if is_rest[name]]
  return {
    "mean_R@1": float(np.mean(pairs)),
    "worst_R@1": min(pairs),
    "rest_R@1": float(np.mean(rest)),
    "flipped_share": evaluation.flipped_share(embedding_set),
    "R@1": recall,
  }


def measure_test(
  embeddings: Mapping[str, np.ndarray], train: Rows, test: Rows
) -> dict[str, Any]:
  """Measures held-out rows, with a linear probe of the leading direction.

  Args:
    embeddings: `{"train": [instance, modality, dim], "test": ...}`.
    train: The training rows, on which the probe is fitted.
    test: The test rows.

  Returns:
    As `measure_retrieval`, and "probe", the accuracy on the classes.
  """
  probe = evaluation.linear_probe_accuracy(
    _directions(embeddings["train"]),
    train.labels,
    _directions(embeddings["test"]),
    test.labels,
  )
  return measure_retrieval(embeddings["test"], test) | {"probe": probe}


def _directions(embeddings: np.ndarray) -> np.ndarray:
  return np.asarray(
    singular_spectrum(
      jnp.asarray(embeddings), solver="gram", orientation="consensus"
    ).leading_direction
  )
