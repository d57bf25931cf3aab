"""What a run needs on devices that need not be there."""

import functools
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from experiments import plan
from experiments.benchmarks import collectives
from experiments.configs import pmrl_vast150k, published
from experiments.models import build_model
from experiments.objectives import loss_of_devices
from experiments.plan import __main__ as program
from experiments.plan import (
  compilation,
  search,
  shapes,
  targets,
  weak_scaling,
)
from experiments.plan.compilation import Memory, Plan
from pmrl_jax import training
from pmrl_jax.losses import pmrl_loss

TINY = Path(__file__).with_name("tiny_config.py")
CONFIGS = Path(plan.__file__).parents[1] / "configs"


@pytest.fixture
def planned(call, here):
  """`planned(*arguments)` plans for the tiny config, and returns the plans."""

  def run(*arguments):
    ended = call(
      program.main, f"--config={TINY}", f"--json={here}/plan.json", *arguments
    )
    plans = []
    if (here / "plan.json").exists():
      plans = json.loads((here / "plan.json").read_text())["plans"]
    return ended, plans

  return run


def test_eight_devices_take_an_eighth_of_the_batch_each(planned, here):
  ended, _ = planned("--topology=cpu", "--nocontrast_alone")
  assert ended.code == 0, ended.err
  ended, plans = planned("--topology=cpux8", "--markdown=page.md")
  assert ended.code == 0, ended.err
  one, eight = plans
  assert (one["topology"], eight["topology"]) == ("cpu", "cpux8")
  assert one["batch_per_device"] == 16 and eight["batch_per_device"] == 2
  # Rows of 5 and 4 numbers of 4 bytes, two of presence and an id.
  assert one["memory"]["batch"] == 16 * (9 * 4 + 2 + 4)
  assert eight["memory"]["batch"] == one["memory"]["batch"] // 8
  assert eight["memory"]["parameters"] == one["memory"]["parameters"]
  # Two moments for each parameter.
  moments = one["memory"]["optimizer"] - 2 * one["memory"]["parameters"]
  assert 0 <= moments < 100
  for each in plans:
    memory = each["memory"]
    assert memory["total"] > memory["temporary"] > 0
    assert each["fits"] is None and not each["estimated"]
  # Each makes the products of its queries in both directions of the contrast.
  assert one["flops"] < eight["flops"] < 1.2 * one["flops"]
  assert not one["traffic"]
  assert one["contrast"] is None and eight["contrast"] > 0
  # Every gradient is summed over the devices.
  sent = eight["traffic"]["all-reduce"]["sent_bytes"]
  assert sent >= 2 * 7 / 8 * eight["memory"]["parameters"]
  assert "memory of cpux8 is not known" in ended.out
  page = (here / "page.md").read_text()
  assert "| cpu (1 x 1) | 16 |" in page and "| cpux8 (8 x 1) | 2 |" in page


def test_a_ring_of_a_run_whose_parameters_are_split(planned):
  ended, (found,) = planned(
    "--topology=cpux8",
    "--config.mesh.fsdp=4",
    "--config.route=ring",
    "--nocontrast_alone",
  )
  assert ended.code == 0, ended.err
  assert found["mesh"] == {"data": 2, "fsdp": 4}
  assert "collective-permute" in found["traffic"]


def test_sizes_and_operations_need_no_compiler(planned):
  ended, (found,) = planned("--topology=cpux8", "--nocompile")
  assert ended.code == 0, ended.err
  assert found["memory"]["parameters"] > 0 and found["flops"] > 0
  assert found["memory"]["total"] is None and found["fits"] is None
  assert ended.out.count("not compiled") == 2
  assert "largest batch" not in ended.out


def test_gpus_that_are_not_there_are_estimated(planned):
  ended, (found,) = planned("--topology=h200x8", "--nocontrast_alone")
  assert ended.code == 0, ended.err
  assert "ESTIMATE" in ended.out and "estimate: yes" in ended.out
  assert found["fits"] and found["estimated"] and found["compiler"] == "cpu"
  assert found["memory_of_device"] == 141 * 10**9


@pytest.mark.parametrize("name,platform", [("h200x1", "gpu"), ("cpu", "cpu")])
def test_the_model_is_built_for_what_is_planned(
  planned, monkeypatch, name, platform
):
  """Though it is a CPU that compiles an estimate, layers are a GPU's."""
  built_for = []

  def build(*arguments):
    built_for.append(arguments[2])
    return build_model(*arguments)

  monkeypatch.setattr(compilation, "build_model", build)
  ended, _ = planned(f"--topology={name}", "--nocompile")
  assert ended.code == 0, ended.err
  assert built_for == [platform]


def test_an_interrupted_search_leaves_what_it_has(planned, monkeypatch):
  compile_step = compilation.Step.compile

  def interrupted(step, batch):
    if batch == 2:
      raise KeyboardInterrupt
    return compile_step(step, batch)

  monkeypatch.setattr(compilation.Step, "compile", interrupted)
  ended, plans = planned("--topology=h200x1", "--search")
  assert ended.code != 0
  assert [plan["batch_per_device"] for plan in plans] == [1]


def test_what_is_too_large_is_refused_with_what_fits(planned, monkeypatch):
  small = targets.Chip(200e3 / 1e9, "a test")
  monkeypatch.setitem(targets.CHIPS, "h200", small)
  ended, plans = planned(
    "--topology=h200x1", "--batch_per_device=512", "--nocontrast_alone"
  )
  assert ended.code == 2
  fitting = [p["batch_per_device"] for p in plans if p["fits"]]
  assert len(fitting) == 1 and 0 < fitting[0] < 512
  assert f"{fitting[0]} per device does" in ended.err
  assert "512 per device does not fit h200x1" in ended.err


def test_where_nothing_fits_it_says_what_takes_the_memory(planned, monkeypatch):
  monkeypatch.setitem(targets.CHIPS, "h200", targets.Chip(1e-9, "a test"))
  ended, _ = planned(
    "--topology=h200x1", "--batch_per_device=1", "--nocontrast_alone"
  )
  assert ended.code == 2
  assert "not even a batch of 1 per device fits" in ended.err
  assert "--config.mesh.fsdp=-1" in ended.err


@pytest.mark.parametrize(
  "arguments,fragments",
  [
    ([], ["--topology is missing", "v5e:4x4", "h200xN", "cpuxN"]),
    (["--topology=v9:4x4"], ["'v9:4x4'", "known are v5e:4x4"]),
    (["--topology=h200"], ["one GPU say h200x1"]),
    (["--topology=cpux0"], ["'cpux0'", "known are"]),
    (["--topology=cpux9"], ["takes 9 devices", "has 8"]),
    (["--topology=cpux3"], ["16 does not split evenly over 3 devices"]),
    (["--topology=cpu", "--batch_per_device=0"], ["must be positive, got 0"]),
    (["--topology=cpu", "--search"], ["memory is known", "of cpu is not"]),
    (["--topology=h200x1", "--search", "--nocompile"], ["--search compiles"]),
    (["--topology=cpu", "--refine=-1"], ["refine must not be negative"]),
    (["--topology=cpu", "--json=other.json"], ["other.json", "no plans"]),
    (["--topology=cpu", "--markdown=other.json"], ["<!-- begin plans -->"]),
    (["--topology=cpux8", "--config.mesh.fsdp=3"], ["8 devices", "fsdp=3"]),
    (["--topology=cpu", "--config.route=post"], ["'gather'", "got 'post'"]),
    (["--topology=cpu", "--config.data.train=no.npz"], ["config.data.inputs"]),
  ],
)
def test_a_mistake_is_explained(
  call, here, check_mistake, arguments, fragments
):
  (here / "other.json").write_text('{"a": 1}')
  ended = call(program.main, f"--config={TINY}", *arguments)
  # The progress bar goes where errors go.
  message = ended.err[ended.err.rindex("error: ") :]
  check_mistake(ended._replace(err=message), *fragments)


def test_without_the_compiler_for_tpus_it_says_what_to_install(
  call, here, monkeypatch
):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  ended = call(program.main, f"--config={TINY}", "--topology=v5e:4x4")
  assert ended.code == 2
  assert "pip install 'pmrl_jax[train,tpu]'" in ended.err


def test_what_hard_negatives_send_is_noted():
  config = pmrl_vast150k.get_config()
  found = shapes.find(config)
  assert len(program._notes(config, found, 1)) == 1
  assert "num_pools=-1" in program._notes(config, found, 8)[1]
  config.matching.num_pools = -1
  assert len(program._notes(config, found, 8)) == 1


def test_published_shapes_need_no_media():
  config = pmrl_vast150k.get_config()
  found = shapes.find(config)
  assert "the data is not there" in found.note
  spec = {name: each.shape for name, each in found.data.train.spec.items()}
  assert spec == {
    "text": (40,),
    "vision": (2, 224, 224, 3),
    "audio": (1, 1024, 64),
    "subtitle": (70,),
  }
  assert found.data.vocabulary_sizes == {"text": 30522, "subtitle": 30522}
  batch = shapes.batch(found.data, 6)
  assert batch["inputs"]["vision"].shape == (6, 2, 224, 224, 3)
  assert batch["where"].shape == (6, 4) and batch["ids"].shape == (6,)


@pytest.mark.parametrize(
  "changes,message",
  [
    ({"inputs.text.kind": "words"}, "inputs.text.kind must be one of"),
    ({"inputs.vision.num_frames": 0}, "describes items of shape"),
    ({"modalities": ("text", "smell")}, "inputs.smell, which must then say"),
    ({"modalities": ()}, "must describe modalities and inputs"),
  ],
)
def test_shapes_that_a_config_does_not_describe(changes, message):
  config = published.get_config()
  for name, value in changes.items():
    config.data.update_from_flattened_dict({name: value})
  with pytest.raises(ValueError, match=message):
    shapes.find(config)


def fake_plan(batch, fits):
  memory = Memory(1, 2, batch, 3, 4)
  return Plan("fake", {"data": 1, "fsdp": 1}, batch, memory, fits, 0, {}, 0)


@pytest.mark.parametrize(
  "limit,options,tried,best",
  [
    (5, {"start": 1, "most": 64}, [1, 2, 4, 8], 4),
    (6, {"start": 1, "most": 64, "refinements": 3}, [1, 2, 4, 6, 7, 8], 6),
    (5, {"start": 32, "most": 32}, [4, 8, 16, 32], 4),
    (99, {"start": 1, "most": 6}, [1, 2, 4, 6], 6),
    (99, {"start": 8, "most": 8}, [8], 8),
    (0, {"start": 4, "most": 64}, [1, 2, 4], None),
  ],
)
def test_the_search_ends_at_what_fits(limit, options, tried, best):
  found = search.largest(lambda b: fake_plan(b, b <= limit), **options)
  assert [each.batch_per_device for each in found] == tried
  chosen = search.best(found)
  assert (chosen and chosen.batch_per_device) == best


def test_traffic_counts_groups_and_iterations():
  mesh = training.make_mesh({"data": 2, "fsdp": 4})

  def local(x):
    whole = jax.lax.all_gather(x, "fsdp", tiled=True)

    def add(total, _):
      return jax.lax.psum(jnp.sin(total), "data"), None

    total, _ = jax.lax.scan(add, whole, length=7)
    return jax.lax.psum_scatter(total, ("data", "fsdp"), tiled=True)

  mapped = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=PartitionSpec(mesh.axis_names),
    out_specs=PartitionSpec(mesh.axis_names),
    check_vma=False,
  )
  compiled = jax.jit(mapped).lower(jnp.zeros(64 * 8)).compile()
  found = collectives.traffic(compiled.as_text(), 8)
  whole = 64 * 4 * 4  # bytes of the four parts of a group
  assert found["all-gather"] == (1, whole * 3 / 4)
  assert found["all-reduce"] == (7, 7 * 2 * whole / 2)
  assert found["reduce-scatter"] == (1, whole / 8 * 7)


TPU_TEXT = """
%all-reduce-scatter (p: f32[8,4]) -> f32[1,4] {
  %all-reduce.1 = f32[8,4]{1,0} all-reduce(%p), channel_id=1, replica_groups=\
mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}, to_apply=%add
}

%body.sunk (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %c = f32[4]{0:T(128)} collective-permute(%p), channel_id=2, \
source_target_pairs={{0,1},{1,0}}
}

%less (p.1: (s32[], f32[4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7)
  ROOT %lt = pred[]{:T(512)} compare(%p.1, %limit), direction=LT
}

ENTRY %main (x: f32[8,4]) -> f32[1,4] {
  %w = (s32[], f32[4]) while(%t), condition=%less, body=%body.sunk
  %y = f32[1,4] fusion(%x), kind=kCustom, calls=%all-reduce-scatter
  %g = (bf16[2,4], bf16[8,4]) all-gather-start(%y), replica_groups=[2,4]<=[8]
  %r = f32[6] all-reduce(%y), replica_groups=mesh['a'=2,'b'=4] {'b':(1)2}
}
"""


def test_traffic_reads_what_the_compiler_for_tpus_writes():
  assert collectives.traffic(TPU_TEXT, 8) == {
    "reduce-scatter": (1, 128 * 7 / 8),
    "all-gather": (1, 64 * 3 / 4),
    "all-reduce": (1, 24.0),
    "collective-permute": (7, 7 * 16),
  }


@pytest.mark.parametrize(
  "said,short",
  [
    ("Ran out of memory. Used 31.24G of 16.00G hbm.", "33.5 GB of 17.2"),
    (
      "the total memory required for HLO temporaries (1.28T) exceeds "
      "available HBM (95.73G). HLO module: jit_train_step.",
      "1407.4 GB of 102.8",
    ),
  ],
)
def test_what_the_compiler_for_tpus_says_of_memory_is_shortened(said, short):
  assert compilation._reason(said) == f"needs {short}"


@pytest.mark.parametrize("route", ["gather", "ring"])
def test_routes_give_the_value_and_the_gradient_of_one_device(tiny, route):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(16, 3, 8)), jnp.float32)
  where = jnp.asarray(rng.random((16, 3)) < 0.8)
  ids = jnp.arange(16, dtype=jnp.int32) // 2
  arguments = {"orientation": "free", "contrast": "directions"}
  mesh = training.make_mesh({"data": 2, "fsdp": 4})
  tiny.route = route
  split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

  def value_and_gradient(loss, *operands):
    of = functools.partial(loss, **arguments)

    def scalar(x, where, ids):
      return of(x, where=where, ids=ids).loss

    return jax.jit(jax.value_and_grad(scalar))(*operands)

  expected = value_and_gradient(pmrl_loss, x, where, ids)
  actual = value_and_gradient(
    loss_of_devices(tiny, mesh), *jax.device_put((x, where, ids), split)
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    jax.device_get(actual),
    jax.device_get(expected),
  )


def test_groups_and_routes_of_the_whole_batch_exclude_each_other():
  config = published.get_config()
  config.route, config.matching.num_groups = "ring", 4
  with pytest.raises(ValueError, match="num_groups = 4"):
    loss_of_devices(config, training.make_mesh())
  config.route = "compiler"
  assert loss_of_devices(config, training.make_mesh()) is pmrl_loss
  del config.route
  assert loss_of_devices(config, training.make_mesh()) is pmrl_loss
  config.matching.num_groups = 1
  assert loss_of_devices(config, training.make_mesh()) is not pmrl_loss


@pytest.mark.slow
def test_weak_scaling_is_listed_by_devices(call, tmp_path):
  ended = call(
    weak_scaling.main,
    "--targets=cpux2,cpux8",
    "--instances=2",
    "--dim=8",
    "--block_size=2",
    f"--output={tmp_path}/weak.json",
    f"--markdown={tmp_path}/page.md",
  )
  assert ended.code == 0, ended.err
  rows = json.loads((tmp_path / "weak.json").read_text())["compiled"]
  assert [row["num_devices"] for row in rows] == [2] * 6 + [8] * 6
  gathers = [row for row in rows if row["form"] is None]
  assert [list(row["traffic"]) for row in gathers] == [["all-gather"]] * 2
  rows = [row for row in rows if row["form"] is not None]
  ring = [row for row in rows if row["form"]["route"] == "ring"]
  assert all("collective-permute" in row["traffic"] for row in ring)
  assert all("all-gather" not in row["traffic"] for row in ring)
  page = (tmp_path / "page.md").read_text()
  assert "| directions, ring, blocks of 2 |" in page
  assert "2 devices" in ended.out and "8 devices" in ended.out
