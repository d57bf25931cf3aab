"""The benchmark programs: that they measure what they say."""

import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from experiments.benchmarks import (
  collectives,
  contestants,
  goals,
  losses,
  memory,
  objectives,
  published,
  tables,
  timing,
  tpu_compilation,
)
from experiments.benchmarks.cases import (
  Case,
  Contestant,
  Skipped,
  embeddings,
)
from experiments.benchmarks.compilation import Form
from pmrl_jax import training
from pmrl_jax.losses import PUBLISHED, pmrl_loss

# Many small programs to compile.
pytestmark = pytest.mark.slow

SMALL = Case(16, 3, 8, "float32")


@pytest.fixture
def clock(monkeypatch):
  """A clock that only moves when it is told to."""

  class Clock:
    now = 0.0

    def pass_time(self, seconds):
      self.now += seconds

  clock = Clock()
  monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
  return clock


# What competes.


@pytest.mark.parametrize("solver", objectives.SOLVERS)
def test_plain_svd_computes_the_published_loss_and_gradient(solver):
  x = embeddings(SMALL)
  ours = jax.value_and_grad(
    lambda x: pmrl_loss(x, solver=solver, **PUBLISHED).loss
  )(x)
  plain = jax.value_and_grad(objectives.plain_svd)(x)
  np.testing.assert_allclose(plain[0], ours[0], rtol=1e-5)
  np.testing.assert_allclose(plain[1], ours[1], atol=2e-5)


def test_floors_are_the_instance_terms():
  x = embeddings(SMALL)
  z = jnp.moveaxis(x / jnp.linalg.norm(x, axis=-1, keepdims=True), 1, 0)
  instance = {
    contrast: pmrl_loss(x, **objective).instance
    for contrast, objective in objectives.OBJECTIVES.items()
  }
  u = pmrl_loss(x, **PUBLISHED).spectrum.leading_direction
  rest = jnp.stack([z[1] + z[2], z[0] + z[2], z[0] + z[1]]) / 2
  floors = {
    "directions": objectives.floor_directions(u),
    "modalities": objectives.floor_modalities((rest, z)),
    "pairs": objectives.floor_pairs(z),
  }
  for contrast in objectives.CONTRASTS:
    np.testing.assert_allclose(
      floors[contrast], instance[contrast], rtol=1e-5, err_msg=contrast
    )


def test_every_contestant_runs_or_says_why_not():
  everyone = contestants.contestants(SMALL.num_modalities)
  names = {contestant.name for contestant in everyone}
  assert len(names) == len(everyone)
  assert {contestant.floor for contestant in everyone} <= names
  for contestant in everyone:
    try:
      value, gradient = contestant.build(SMALL)()
    except Skipped as reason:
      assert "torch" in contestant.name
      assert "PyTorch" in str(reason)
      continue
    assert math.isfinite(float(value))
    for leaf in jax.tree.leaves(gradient):
      assert float(jnp.linalg.norm(jnp.asarray(np.asarray(leaf)))) > 0


def test_what_does_not_fit_in_memory_is_skipped(monkeypatch):
  monkeypatch.setattr(contestants, "_free_memory", lambda: 10.0)
  floor = contestants.contestants(2)[0]
  with pytest.raises(Skipped, match="GB are free"):
    floor.build(SMALL)


def test_pytorch_computes_the_same_pairwise_loss():
  torch = pytest.importorskip("torch")
  x = embeddings(SMALL)
  z = jnp.moveaxis(x / jnp.linalg.norm(x, axis=-1, keepdims=True), 1, 0)
  calls = {c.name: c.build(SMALL) for c in published.contestants()}
  value, _ = calls["torch InfoNCE, pairs"]()
  np.testing.assert_allclose(float(value), objectives.floor_pairs(z), rtol=1e-5)
  thin, full = calls["torch svd, thin"](), calls["torch svd, full matrices"]()
  assert torch.isfinite(full[1]).all()
  # Up to the signs of directions, which PyTorch leaves open.
  assert 0 < float(thin[0]) < 20 and 0 < float(full[0]) < 20


# How they are timed.


def test_contestants_take_turns_and_slow_ones_sit_out(clock):
  order = []

  def contestant(name, seconds):
    def call():
      order.append(name)
      clock.pass_time(seconds)

    return Contestant(name, "fast", lambda case: call)

  fast, slow = timing.measure(
    [contestant("fast", 0.5), contestant("slow", 2.0)],
    SMALL,
    rounds=6,
    max_seconds=10,
  )
  assert order[:4] == ["fast", "fast", "slow", "slow"]  # before the rounds
  assert order[4:8] == ["fast", "slow", "fast", "fast"]
  assert list(fast.seconds) == [0, 1, 2, 3, 4, 5]
  assert list(slow.seconds) == [0, 2, 4]
  assert slow.median() == 2.0
  assert slow.spread() == 0.0
  assert timing.ratio(slow, fast) == 4.0


def test_a_call_may_follow_one_that_does_not_count(clock):
  last = []

  def contestant(name):
    def call():
      clock.pass_time(1.0 if last == [name] else 5.0)
      last[:] = [name]

    return Contestant(name, "a", lambda case: call)

  timings = timing.measure(
    [contestant("a"), contestant("b")],
    SMALL,
    rounds=3,
    max_seconds=10,
    after_itself=True,
  )
  assert [list(t.seconds.values()) for t in timings] == [[1.0] * 3] * 2


def test_ratio_is_that_of_the_same_rounds():
  other = timing.Timing(SMALL, "a", "a", {0: 1.0, 1: 100.0, 2: 1.0, 3: 1.0})
  this = timing.Timing(SMALL, "b", "a", {1: 300.0, 3: 3.0})
  assert timing.ratio(this, other) == 3.0
  assert math.isnan(timing.ratio(this, None))
  assert other.spread() == pytest.approx(24.75 / 2)


def test_what_is_too_slow_is_skipped_and_later_not_even_called(clock):
  calls = []

  def call():
    calls.append(clock.now)
    clock.pass_time(3.0)

  contestant = Contestant("slow", "slow", lambda case: call)
  cases = [SMALL, SMALL._replace(batch=32)]
  (first,) = timing.measure([contestant], SMALL, rounds=5, max_seconds=2)
  assert len(calls) == 1 and first.probe == 3.0
  assert "3.0 s" in first.skipped and "--max_seconds" in first.skipped
  (second,) = timing.measure(
    [contestant], cases[1], rounds=5, max_seconds=2, expected={"slow": 6.0}
  )
  assert len(calls) == 1 and "6.0 s" in second.skipped
  assert math.isnan(second.median())


# What is read from compiled programs.


def test_collectives_are_counted_and_those_in_loops_are_marked():
  mesh = training.make_mesh(devices=jax.devices())
  axis = mesh.axis_names[0]
  steps = [(i, (i + 1) % 8) for i in range(8)]

  def f(x):
    everything = jax.lax.all_gather(x, axis, tiled=True)
    total = jax.lax.psum(jnp.sin(everything).sum(), axis)

    def pass_on(_, x):
      return jax.lax.ppermute(jnp.cos(x), axis, steps)

    return total + jax.lax.fori_loop(0, 8, pass_on, x)

  split = PartitionSpec(axis)
  mapped = jax.shard_map(f, mesh=mesh, in_specs=split, out_specs=split)
  compiled = jax.jit(mapped).lower(jnp.zeros(16)).compile()
  assert collectives.count(compiled.as_text()) == {
    collectives.Collective("all-gather", "f32[16]", False): 1,
    collectives.Collective("all-reduce", "f32[]", False): 1,
    collectives.Collective("collective-permute", "f32[2]", True): 1,
  }


def test_collective_in_parts_counts_once():
  text = """HloModule m

%first (p: f32[2]) -> f32[16] {
  %p = f32[2]{0} parameter(0)
  ROOT %g = f32[16]{0:T(8)} all-gather(%p), channel_id=7, dimensions={0}
}

%second (p: f32[2]) -> f32[16] {
  %p.1 = f32[2]{0} parameter(0)
  ROOT %g.1 = f32[16]{0:T(8)} all-gather(%p.1), channel_id=7, dimensions={0}
}

ENTRY %main (x: f32[2]) -> f32[16] {
  %x = f32[2]{0} parameter(0)
  %a = f32[16]{0} custom-call(%x), called_computations={%first}
  %b = f32[16]{0} fusion(%x), kind=kOutput, calls=%second
  %s = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), channel_id=9
  %d = f32[8]{0} all-gather-done(%s)
  %u = f32[8]{0} all-gather(%x), channel_id=9
  ROOT %t = (f32[2]{0}, f32[4]{0}) all-reduce(%x, %x), channel_id=8
}
"""
  found = collectives.count(text)
  assert {(c.kind, c.arrays): n for c, n in found.items()} == {
    ("all-gather", "f32[16]"): 1,
    ("all-gather", "f32[8]"): 2,
    ("all-reduce", "f32[2] f32[4]"): 1,
  }


def test_blocks_need_less_memory_on_one_device_and_on_eight():
  case = Case(1024, 2, 8, "float32")
  for route, num_devices in (("jit", 1), ("jit", 8), ("gather", 8)):
    dense, blocked = (
      memory.measure(case, Form("directions", route, size), num_devices)
      for size in (None, 64)
    )
    assert 0 < 4 * blocked.temporary_bytes < dense.temporary_bytes


# What is reported.


def test_goals_are_compared_with_what_was_measured():
  case = goals.CPU_CASE
  seconds = {
    "floor directions": 1.0,
    "pmrl directions gram": 1.3,
    "floor pairs": 1.0,
    "pmrl pairs gram": 1.5,
    "plain svd autodiff": 2.6,
  }
  timings = [
    timing.Timing(case, name, "floor directions", {0: value, 1: value})
    for name, value in seconds.items()
  ]
  memories = [
    memory.Memory(goals.LARGE_CASE, Form("directions", "jit", size), 1, number)
    for size, number in ((None, 1000), (64, 15))
  ]
  met = {
    goal.text.partition(",")[0]: goal.met
    for goal in goals.assess(timings, memories, "cpu")
  }
  assert met["pmrl directions gram / its floor"] is None  # that of the GPU
  by_bound = [
    (goal.bound, round(goal.measured, 3), goal.met)
    for goal in goals.assess(timings, memories, "cpu")
    if goal.met is not None
  ]
  assert by_bound == [
    ("<= 1.4 x", 1.3, True),
    ("<= 1.4 x", 1.5, False),
    (">= 1.8 x", 2.0, True),
    ("<= 2 %", 0.015, True),
  ]


def test_tables_replace_what_is_between_their_markers(tmp_path):
  page = tmp_path / "page.md"
  page.write_text("a\n<!-- begin t -->\nold\n<!-- end t -->\nb\n")
  table = tables.Table("T", ["", "x"], [["row", "1"]])
  for _ in range(2):
    tables.write_markdown(page, "t", tables.as_markdown(table))
  assert page.read_text() == (
    "a\n<!-- begin t -->\n\n**T**\n\n|  | x |\n| --- | ---: |\n| row | 1 |\n\n"
    "<!-- end t -->\nb\n"
  )
  with pytest.raises(ValueError, match="begin u"):
    tables.write_markdown(page, "u", "")
  tables.write_markdown(tmp_path / "new.md", "u", "x")
  assert "x" in (tmp_path / "new.md").read_text()


# The programs.


def test_losses_are_timed_and_weighed(call, tmp_path):
  output, page = tmp_path / "results.json", tmp_path / "page.md"
  ended = call(
    losses.main,
    "--batch=8",
    "--modalities=2,4",
    "--dim=4",
    "--rounds=2",
    "--block_size=2",
    f"--output={output}",
    f"--markdown={page}",
  )
  assert ended.code == 0, ended.err
  results = json.loads(output.read_text())
  assert {"cpu", "cores", "versions", "git_revision"} <= set(results["machine"])
  timed = [row for row in results["timings"] if row["skipped"] is None]
  assert {(row["batch"], row["num_modalities"]) for row in timed} == {
    (8, 2),
    (8, 4),
  }
  assert all(row["median_seconds"] > 0 for row in timed)
  assert all(row["times_floor"] > 0 for row in timed)
  forms = {
    (row["route"], row["num_devices"], row["block_size"])
    for row in results["memory"]
  }
  assert {("jit", 1, None), ("gather", 8, 2), ("ring", 8, 2)} <= forms
  assert all(row["temporary_bytes"] > 0 for row in results["memory"])
  assert all(goal["met"] is None for goal in results["goals"])
  skipped = len(results["timings"]) - len(timed)
  assert f"Skipped: {skipped} of" in ended.out or not skipped
  assert "pmrl modalities gram" in ended.out
  assert "| pmrl modalities gram |" in page.read_text()


@pytest.mark.parametrize(
  "flag,words",
  [
    ("--batch=many", ["--batch must be integers of at least 2", "'many'"]),
    ("--batch=1", ["at least 2", "'1'", "for example --batch=64,256"]),
    ("--modalities=1,2", ["--modalities", "at least 2", "'1,2'"]),
    ("--dim=0", ["--dim must be positive, got 0"]),
    ("--rounds=0", ["--rounds must be positive, got 0"]),
    ("--max_seconds=-1", ["--max_seconds must be positive, got -1.0"]),
    ("--dtype=float16", ["--dtype", "float32|bfloat16"]),
    (f"--markdown={__file__}", ["begin losses on cpu", "does not exist"]),
  ],
)
def test_mistake_is_told_before_anything_is_measured(
  call, tmp_path, flag, words
):
  output = tmp_path / "results.json"
  ended = call(losses.main, flag, f"--output={output}")
  assert ended.code == 2
  assert "Traceback" not in ended.err
  for word in words:
    assert word in ended.err
  assert not output.exists()


def test_without_the_compiler_for_tpus_it_says_what_to_install(
  call, monkeypatch
):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  ended = call(tpu_compilation.main)
  assert ended.code == 2
  assert "pip install 'pmrl_jax[train,tpu]'" in ended.err


def test_compilation_is_listed_with_its_collectives(capsys, tmp_path):
  # On fake devices of the kind at hand; TPUs need a compiler of their own.
  case, form = Case(16, 2, 8, "float32"), Form("directions", "ring", 1)
  compiled = tpu_compilation.compile_for("fake", jax.devices(), case, form)
  tpu_compilation.write([compiled], tmp_path / "results.json", None)
  (row,) = json.loads((tmp_path / "results.json").read_text())["compilations"]
  assert row["num_chips"] == 8 and row["temporary_bytes"] > 0
  in_loop = [c["kind"] for c in row["collectives"] if c["in_loop"]]
  assert "collective-permute" in in_loop
  assert "all-gather" not in in_loop
  assert "f32[2,1,8] in a loop" in capsys.readouterr().out
