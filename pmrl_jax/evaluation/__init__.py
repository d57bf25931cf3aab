"""How good embeddings are: measures, figures and the report of a run.

All functions take plain arrays, so they serve any model: put the embeddings
of a split into an `EmbeddingSet`, then `evaluate`, `summary_table` and
`write_report`.
"""

from pmrl_jax.evaluation.classification import (
  knn_accuracy,
  linear_probe_accuracy,
  probe,
)
from pmrl_jax.evaluation.diagnostics import (
  PairCosines,
  between_cosine,
  flipped_share,
  mean_spectrum,
  pair_cosines,
)
from pmrl_jax.evaluation.embedding_set import EmbeddingSet
from pmrl_jax.evaluation.report import Display, write_report
from pmrl_jax.evaluation.reranking import refine_scores, score_metrics
from pmrl_jax.evaluation.retrieval import (
  cross_modal_retrieval,
  retrieval_metrics,
)
from pmrl_jax.evaluation.summary import (
  RERANKED,
  SCALARS,
  evaluate,
  reranked_summary,
  summary_table,
)

__all__ = [
  "RERANKED",
  "SCALARS",
  "Display",
  "EmbeddingSet",
  "PairCosines",
  "between_cosine",
  "cross_modal_retrieval",
  "evaluate",
  "flipped_share",
  "knn_accuracy",
  "linear_probe_accuracy",
  "mean_spectrum",
  "pair_cosines",
  "probe",
  "refine_scores",
  "reranked_summary",
  "retrieval_metrics",
  "score_metrics",
  "summary_table",
  "write_report",
]
