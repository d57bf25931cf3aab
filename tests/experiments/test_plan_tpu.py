"""Real programs for TPUs, compiled without one; `make test-tpu` runs this."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.experiments.tiny_published import TINY_INPUTS, tiny_model

pytestmark = [
  pytest.mark.tpu,
  pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="there is no compiler for TPUs; make test-tpu installs it",
  ),
]
ROOT = Path(__file__).parents[2]
# The published model, as small as its parts allow.
TINY = {
  **TINY_INPUTS,
  **tiny_model(depth=2),
  "model.encoders.text.vocabulary_size": 8192,
}


def run(program, folder, *arguments, timeout=1200):
  """Runs a program in a process of its own, with devices of its own."""
  # Elsewhere tests fake CPUs; here the compiler for TPUs is what counts.
  return subprocess.run(
    [sys.executable, "-m", f"experiments.{program}", *arguments],
    cwd=folder,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    timeout=timeout,
  )


def test_a_step_compiles_for_a_slice_with_parameters_split(tmp_path):
  config = tmp_path / "tiny_published.py"
  config.write_text(
    "from experiments.configs import pmrl_vast150k\n\n\n"
    "def get_config():\n"
    "  config = pmrl_vast150k.get_config()\n"
    f"  changes = {TINY!r}\n"
    "  with config.unlocked():\n"
    "    for name, value in changes.items():\n"
    "      config.update_from_flattened_dict({name: value})\n"
    "  return config\n"
  )
  ended = run(
    "plan",
    tmp_path,
    f"--config={config}",
    "--topology=v5e:4x4",
    "--batch_per_device=2",
    "--config.mesh.data=2",
    "--config.mesh.fsdp=8",
    "--json=plan.json",
  )
  assert ended.returncode == 0, ended.stderr
  (plan,) = json.loads((tmp_path / "plan.json").read_text())["plans"]
  assert plan["mesh"] == {"data": 2, "fsdp": 8} and plan["fits"]
  assert plan["compiler"] == "tpu" and not plan["estimated"]
  memory = plan["memory"]
  assert memory["temporary"] > 0 and plan["contrast"] > 0
  assert memory["total"] >= memory["parameters"] + memory["optimizer"]
  # What is split over fsdp is gathered, and gradients are summed.
  assert {"all-gather", "all-reduce"} <= set(plan["traffic"])
  assert plan["flops"] > 0


def test_the_step_of_the_full_size_compiles(tmp_path):
  version = importlib.metadata.version("libtpu")
  if tuple(map(int, version.split(".")[:3])) < (0, 0, 50):
    pytest.skip(f"libtpu {version} has been seen to crash; 0.0.50 does not")
  ended = run(
    "plan",
    tmp_path,
    f"--config={ROOT / 'experiments/configs/pmrl_vast150k.py'}",
    "--topology=v5e:4x4",
    "--batch_per_device=4",
    "--config.mesh.fsdp=16",
    "--config.matching.num_pools=16",
    "--nocontrast_alone",
    "--json=plan.json",
    timeout=3600,
  )
  assert ended.returncode == 0, ended.stderr
  (plan,) = json.loads((tmp_path / "plan.json").read_text())["plans"]
  memory = plan["memory"]
  assert plan["fits"] and memory["total"] < 0.5 * plan["memory_of_device"]
  # Of 1.2 billion parameters a sixteenth, and of their moments.
  assert 300e6 < memory["parameters"] < memory["optimizer"] < 640e6


def test_a_contrast_grows_as_one_gather_and_a_ring_not_at_all(tmp_path):
  ended = run(
    "plan.weak_scaling",
    tmp_path,
    "--targets=v5e:2x2,v5e:4x4",
    "--instances=8",
    "--dim=128",
    "--block_size=8",
    "--output=weak.json",
  )
  assert ended.returncode == 0, ended.stderr
  rows = json.loads((tmp_path / "weak.json").read_text())["compiled"]

  def of(route):
    return [row for row in rows if (row["form"] or {}).get("route") == route]

  four, sixteen = (row["temporary_bytes"] for row in of("ring"))
  assert sixteen <= 1.2 * four
  alone = {row["num_devices"]: sent(row) for row in of(None)}
  assert sorted(alone) == [4, 16]
  for row in of("gather"):
    # And the sums of the instances, a few numbers each, here beside 128.
    assert sent(row) < 1.1 * alone[row["num_devices"]]


def sent(row):
  return sum(each["sent_bytes"] for each in row["traffic"].values())


def test_a_topology_that_there_is_not_is_explained(tmp_path):
  ended = run(
    "plan",
    tmp_path,
    f"--config={ROOT / 'experiments/configs/tri_modal.py'}",
    "--topology=v5e:3x7",
  )
  assert ended.returncode == 2
  assert "no topology 'v5e:3x7' is known; known are v5e:4x4" in ended.stderr
