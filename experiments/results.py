"""What a run leaves behind: `summary.json`, figures and `report.html`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections

from experiments import cluster
from experiments import workdir as workdirs
from experiments.build import Run
from pmrl_jax import evaluation
from pmrl_jax.data import Source

# What the metrics of an evaluation during training keep of the summary.
_ROW = (*evaluation.SCALARS, "spectrum", "cosines")


def bad_examples(folder: Path) -> Path:
  """Where a run lists the training examples that this process cannot read."""
  index, count = jax.process_index(), jax.process_count()
  name = "bad_examples.jsonl" if count == 1 else f"bad_examples.{index}.jsonl"
  return folder / name


def evaluate_split(run: Run, params: Any, level: str) -> dict[str, Any]:
  """Measures the held-out split, as a row of the metrics."""
  embedded = run.embed(params, run.data.test)
  summary = evaluation.evaluate(embedded.embedding_set, level=level)
  row = {name: summary[name] for name in _ROW}
  if run.rerank is not None:
    scores = run.rerank(params, run.data.test, embedded)
    row |= evaluation.reranked_summary(scores)
  if summary["coverage"] < 1:
    row["coverage"] = summary["coverage"]
  row["R@1"] = {
    direction: scores["R@1"]
    for direction, scores in summary["retrieval"].items()
  }
  return row


def write_results(
  folder: Path,
  *,
  history: Sequence[Mapping[str, Any]],
  config: ml_collections.ConfigDict,
  run: Run,
  params: Any,
  step: int,
) -> None:
  """Measures everything, writes it and prints the table.

  Of several processes all take part, and process 0 writes.

  Args:
    folder: Where the files go.
    history: The rows of the run's metrics up to this step.
    config: The run's config.
    run: What was built from it.
    params: The parameters.
    step: Steps they were trained.
  """
  level = config.evaluation.level
  data = run.data
  embedded = run.embed(params, data.test)
  test_set, train_set = embedded.embedding_set, None
  if isinstance(data.train, Source) and _labelled(data.train, data.test):
    # Probes need classes, and what they learn from may have gaps.
    train_set = run.embed(params, data.train, allow_missing=True).embedding_set
  reranked: Mapping[str, Any] = {}
  if run.rerank is not None:
    scores = run.rerank(params, data.test, embedded)
    reranked = evaluation.reranked_summary(scores)
  if not cluster.is_primary():
    return
  summary = evaluation.evaluate(test_set, train_set=train_set, level=level)
  summary |= reranked
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
    "loss": _listed(config.loss),
    **({"matching": _listed(config.matching)} if "matching" in config else {}),
    "train / held-out instances": f"{len(data.train):,} / {len(data.test):,}",
    "devices": workdirs.devices(),
    "git revision": workdirs.git_revision() or "unknown",
    "versions": ", ".join(f"{k} {v}" for k, v in workdirs.versions().items()),
  }
  notes = [*data.train.notes, *data.test.notes]
  lists = sorted(folder.glob("bad_examples*.jsonl"))
  if lists:
    names = {
      json.loads(line)["name"]
      for path in lists
      for line in path.read_text(encoding="utf-8").splitlines()
    }
    notes.append(
      f"{len(names)} training examples could not be read and were skipped: "
      f"{', '.join(path.name for path in lists)}"
    )
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


def _listed(options: Mapping[str, Any]) -> str:
  return ", ".join(f"{name} = {value}" for name, value in options.items())


def _labelled(*splits: Source) -> bool:
  return all((split.labels >= 0).all() for split in splits)
