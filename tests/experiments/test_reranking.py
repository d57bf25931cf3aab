"""Ranking again by the matching head, and embedding every item once."""

import collections

import jax
import numpy as np
import pytest

from experiments.embedding import build_embedder
from experiments.reranking import build_reranker
from pmrl_jax import encoders, training
from pmrl_jax.data import ArraySource, View
from pmrl_jax.evaluation import score_metrics

NUM = 11


def make_model():
  return encoders.PMRLModel(
    encoders={
      "text": encoders.Bert(
        vocabulary_size=20,
        width=8,
        depth=1,
        num_heads=2,
        mlp_width=8,
        max_length=6,
      ),
      "vision": encoders.TableEncoder(width=6, depth=1),
    },
    modalities={
      "text": encoders.Modality("text", conditions=False),
      "vision": encoders.Modality("vision"),
      "subtitle": encoders.Modality("text"),
    },
    fusions=(("vision", "subtitle"),),
    dim=8,
    width=8,
  )


class TwoCaptions(View):
  """Every row is there twice, with the same items but for the caption."""

  def pairing(self, epoch):
    items = super().pairing(epoch).copy()
    items[:, 0] = np.arange(len(items))
    return items

  def read(self, modality, items, where, generator=None):
    self.reads += [(modality, int(item)) for item in items[where]]
    if modality == "text":
      items = self._instances[items]
    return super().read(modality, items, where, generator)


@pytest.fixture
def source():
  rng = np.random.default_rng(0)
  where = np.ones((NUM, 3), bool)
  where[3, 2] = where[5, 1] = False
  where[7, 1:] = False
  where[8, 0] = False
  whole = ArraySource(
    {
      "text": rng.integers(4, 20, (NUM, 5)).astype(np.int32),
      "vision": rng.normal(size=(NUM, 4)).astype(np.float32),
      "subtitle": rng.integers(4, 20, (NUM, 5)).astype(np.int32),
    },
    where=where,
  )
  view = TwoCaptions(whole, np.repeat(np.arange(NUM), 2), whole.modalities)
  view.reads = []
  return view


@pytest.fixture
def run(source):
  model, mesh = make_model(), training.make_mesh()
  inputs = {
    name: np.zeros((2, *spec.shape), spec.dtype)
    for name, spec in source.spec.items()
  }
  params = jax.jit(model.init)(jax.random.key(0), inputs)["params"]
  # Larger than they start, so that no two pairs are almost the same.
  params = jax.tree.map(lambda x: 4 * x if x.ndim > 1 else x, params)
  params = training.replicate(params, mesh)
  return model, mesh, params


def test_every_item_is_encoded_once_as_in_one_batch(source, run):
  model, mesh, params = run
  embedded = build_embedder(model, mesh, 8, False)(params, source)
  counts = collections.Counter(source.reads)
  names = [name for name, _ in counts]
  assert [names.count(name) for name in source.modalities] == [20, 9, 9]
  # Once, but for those that fill up the last batch.
  assert sum(count > 1 for count in counts.values()) <= 3
  inputs = {
    name: source.inputs(name, source.pairing(0)[:, column])
    for column, name in enumerate(source.modalities)
  }
  expected = jax.jit(
    lambda p: model.apply(
      {"params": p}, inputs, where=source.where, method="encode"
    )
  )(params)
  where = source.where[..., None]
  np.testing.assert_allclose(
    np.where(where, embedded.embedding_set.embeddings, 0),
    np.where(where, expected.embeddings, 0),
    rtol=1e-4,
    atol=1e-4,
  )
  np.testing.assert_array_equal(embedded.embedding_set.where, source.where)
  for name, pooled in expected.pooled.items():
    np.testing.assert_allclose(
      embedded.pooled[name], pooled, rtol=1e-4, atol=1e-4
    )


def reranked(run, source, num_candidates):
  model, mesh, params = run
  embedded = build_embedder(model, mesh, 8, False)(params, source)
  rerank = build_reranker(
    model,
    mesh,
    tasks=["tvs"],
    num_candidates=num_candidates,
    batch_size=8,
    level="instance",
    missing=False,
  )
  return rerank(params, source, embedded)


def test_scores_are_those_of_judging_all_pairs(source, run):
  model, _, params = run
  scores = reranked(run, source, 50)
  texts = np.flatnonzero(source.where[:, 0] & source.where[:, 1:].any(axis=1))
  items = np.array([2 * row for row in range(NUM) if row != 7])
  inputs = {
    name: source.inputs(name, source.pairing(0)[:, column])
    for column, name in enumerate(source.modalities)
  }

  @jax.jit
  def judge(params):
    variables = {"params": params}
    encoded = model.apply(
      variables, inputs, where=source.where, method="encode"
    )
    tokens, seen = model.condition(encoded, "vs")
    joint, _ = model.apply(variables, encoded, "vs", method="feature")
    caption, _ = model.apply(variables, encoded, "t", method="feature")
    pairs = np.array([(t, i) for t in texts for i in items])
    logits = model.apply(
      variables,
      inputs["text"][pairs[:, 0]],
      tokens[pairs[:, 1]],
      seen[pairs[:, 1]],
      method="match",
    )
    similarity = caption[texts] @ joint[items].T
    return jax.nn.softmax(logits)[:, 1].reshape(similarity.shape), similarity

  probabilities, similarity = map(np.asarray, judge(params))
  for direction, values in (("text->vs", False), ("vs->text", True)):
    ids = [texts // 2, items // 2]
    kept = np.isin(ids[1], ids[0])
    matrices = []
    for matrix in (probabilities, similarity):
      matrices.append(matrix.T[kept] if values else matrix)
    if values:
      ids = [ids[1][kept], ids[0]]
    expected = score_metrics(matrices[0], query_ids=ids[0], gallery_ids=ids[1])
    before = score_metrics(matrices[1], query_ids=ids[0], gallery_ids=ids[1])
    found = scores[direction]
    assert {name: found[name] for name in expected} == expected
    assert found["similarity_R@5"] == before["R@5"]
    assert found["num_gallery"] == len(ids[1])
    assert found["coverage"] == pytest.approx(10 / 11)


def test_what_is_no_candidate_is_not_found(source, run):
  scores = reranked(run, source, 1)
  for each in scores.values():
    assert each["num_candidates"] == 1
    # One candidate is found at once, or not at all.
    assert each["R@5"] == each["R@1"] == each["similarity_R@1"]
