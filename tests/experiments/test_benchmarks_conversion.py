"""The benchmark of conversions, with a checkpoint that is small."""

import json
import math

import numpy as np
import pytest

from experiments.benchmarks import conversion, published
from pmrl_jax.weights.safetensors_files import read_safetensors


def of(peak):
  return conversion.Conversion("there", 2_000_000_000, 1, peak, 1.0)


def test_a_large_checkpoint_has_a_goal():
  met, missed = conversion.assess([of(2_500_000_000), of(2_700_000_000)])
  assert met.met is True and missed.met is False
  assert met.measured == 1.25


def test_a_small_checkpoint_has_none():
  (goal,) = conversion.assess([of(10)._replace(checkpoint_bytes=5)])
  assert goal.met is None and math.isnan(goal.measured)


@pytest.mark.slow
def test_the_peak_is_that_of_one_process():
  before = conversion.peak_bytes()
  block = np.ones(before + 500_000_000, np.uint8)
  here = conversion.peak_bytes()
  assert here >= len(block)
  alone = conversion.in_a_process(conversion.peak_bytes)
  assert 1e8 < alone < here - 400e6


def test_the_checkpoint_has_all_keys_and_its_copies_are_equal(tmp_path):
  conversion.write_checkpoint("tiny", tmp_path / "x.safetensors")
  tensors = read_safetensors(tmp_path / "x.safetensors")
  ours, copy = (
    tensors[f"multimodal_encoder.{key}.weight"].read()
    for key in ("bert.embeddings.word_embeddings", "cls.predictions.decoder")
  )
  assert (ours == copy).all() and ours.std() > 0.1


@pytest.mark.slow
def test_the_program_writes_what_it_prints(call, tmp_path):
  output, page = tmp_path / "new" / "conversion.json", tmp_path / "page.md"
  ended = call(
    conversion.main,
    "--checkpoint_size=tiny",
    f"--output={output}",
    f"--markdown={page}",
  )
  assert ended.code == 0, ended.err
  found = json.loads(output.read_text())["conversions"]
  names = ["safetensors to parameters", "parameters to safetensors"]
  if published.version() is not None:
    names.append(".pt to parameters")
  assert [each["name"] for each in found] == names
  assert len({each["checkpoint_bytes"] for each in found[:2]}) == 1
  for each in found:
    assert each["peak_bytes"] >= each["before_bytes"] > 1e8
  assert "| parameters to safetensors |" in page.read_text()
  # The checkpoints are gone.
  assert [path.name for path in output.parent.iterdir()] == [output.name]
