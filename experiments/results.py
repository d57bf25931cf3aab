"""What a run leaves behind: `summary.json`, figures and `report.html`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_collections

from experiments import workdir as workdirs
from experiments.data_sets import Data
from pmrl_jax import evaluation, training

# What the metrics of an evaluation during training keep of the summary.
_SCALARS = (
  "mean_R@1",
  "mean_mAP",
  "rest_R@1",
  "flipped_share",
  "between_cosine",
)
_ROW = (*_SCALARS, "spectrum", "cosines")


def check(config: ml_collections.ConfigDict, data: Data) -> None:
  """Checks what a config says of evaluation, before anything is trained.

  Raises:
    ValueError: If the level, the metric of the best checkpoint or the labels
      do not fit.
  """
  level, best = config.evaluation.level, config.checkpoint.best_metric
  if level not in ("class", "instance"):
    raise ValueError(
      f"config.evaluation.level must be 'class' or 'instance', got {level!r}"
    )
  if level == "class" and (data.test.labels < 0).any():
    raise ValueError(
      "config.evaluation.level is 'class', but the held-out data has no "
      "labels; add them, or set it to 'instance'"
    )
  if best not in _SCALARS:
    raise ValueError(
      f"config.checkpoint.best_metric must be one of {list(_SCALARS)}, got "
      f"{best!r}"
    )


def evaluate_split(
  embed: Callable, params: Any, data: Data, level: str
) -> dict[str, Any]:
  """Measures the held-out split, as a row of the metrics."""
  summary = evaluation.evaluate(embed(params, data.test), level=level)
  row = {name: summary[name] for name in _ROW}
  row["R@1"] = {
    direction: scores["R@1"]
    for direction, scores in summary["retrieval"].items()
  }
  return row


def write_results(
  folder: Path,
  *,
  run: Path,
  config: ml_collections.ConfigDict,
  data: Data,
  embed: Callable,
  params: Any,
  step: int,
) -> None:
  """Measures everything, writes it and prints the table.

  Args:
    folder: Where the files go.
    run: The run's workdir, whose metrics give the curves.
    config: The run's config.
    data: Its data.
    embed: From `build_embedder`.
    params: The parameters.
    step: Steps they were trained.
  """
  level = config.evaluation.level
  test_set = embed(params, data.test)
  train_set = embed(params, data.train)
  history = [row for row in training.read_metrics(run) if row["step"] <= step]
  summary = evaluation.evaluate(
    test_set,
    # Probes need classes.
    train_set=None if _unlabelled(train_set, test_set) else train_set,
    level=level,
  )
  summary["seconds"] = history[-1]["seconds"] if history else 0.0
  summary["steps"] = step
  folder.mkdir(parents=True, exist_ok=True)
  num_parameters = workdirs.write_parameter_table(
    folder / "parameters.txt", params
  )
  workdirs.write_atomically(
    folder / "summary.json", json.dumps(summary, indent=2) + "\n"
  )
  facts = {
    "steps": f"{step:,} of {config.steps:,}",
    "seconds": f"{summary['seconds']:.0f}",
    "batch size": str(config.batch_size),
    "parameters": f"{num_parameters:,}",
    "seed": str(config.seed),
    "loss": ", ".join(f"{k} = {v}" for k, v in config.loss.items()),
    "train / held-out instances": f"{len(data.train):,} / {len(data.test):,}",
    "devices": workdirs.devices(),
    "git revision": workdirs.git_revision() or "unknown",
    "versions": ", ".join(f"{k} {v}" for k, v in workdirs.versions().items()),
  }
  notes = [*data.train.notes, *data.test.notes]
  if notes:
    facts["data"] = "; ".join(notes)
  report = evaluation.write_report(
    folder,
    title=f"{config.data.name}: {', '.join(data.test.modalities)}",
    summary=summary,
    history=history,
    test_set=test_set,
    displays=data.displays,
    level=level,
    class_names=data.class_names,
    facts=facts,
  )
  print(
    f"\n{evaluation.summary_table(summary)}\n\nreport: {report}", flush=True
  )


def _unlabelled(*sets: evaluation.EmbeddingSet) -> bool:
  return any(embeddings.labels is None for embeddings in sets)
