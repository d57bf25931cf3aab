"""The benchmark of a training step: that both sides compute the same."""

import json
import math

import jax
import numpy as np
import pytest

from experiments.benchmarks import (
  flops,
  model,
  model_report,
  published,
  step_compilation,
  steps,
  tables,
  timing,
  twin,
)
from experiments.benchmarks.cases import Skipped
from pmrl_jax.weights.published import published_table
from pmrl_jax.weights.state_dict import to_state_dict

TINY = steps.StepCase("tiny", 4, "float32", False)
needs_torch = pytest.mark.skipif(
  published.version() is None, reason="needs PyTorch, pip install torch"
)


# The twin.


def random_params(step):
  """Parameters none of which is 0 or 1, without compiling."""
  random = np.random.default_rng(0)

  def draw(path, shape):
    name = path[-1].key
    mean = {"scale": 1.0, "gate_scale": 1.0, "temperature": 0.1}.get(name, 0)
    spread = 0.01 if name == "temperature" else 0.1
    noise = random.standard_normal(shape.shape, np.float32)
    return np.float32(mean) + np.float32(spread) * noise

  shapes = jax.eval_shape(step.start).params
  return jax.tree_util.tree_map_with_path(draw, shapes)


@needs_torch
def test_the_twin_has_our_loss_and_gradients():
  case_model = steps.build_model(TINY)
  step = steps.make_step(TINY, case_model)
  params = random_params(step)
  objective = steps.make_objective(case_model, draw=twin.following)
  (loss, _), gradients = jax.jit(jax.value_and_grad(objective, has_aux=True))(
    params, step.batch, jax.random.key(0)
  )
  theirs = twin.make_twin(TINY, params)
  value = twin.make_loss(theirs, TINY, draw=twin.next_one)(
    twin.twin_batch(TINY)
  )
  value.backward()
  np.testing.assert_allclose(float(value.detach()), loss, rtol=1e-4)
  expected = dict(to_state_dict(gradients, published_table(case_model)))
  found = {
    name: parameter.grad
    for name, parameter in theirs.named_parameters()
    if parameter.grad is not None
  }
  assert len(found) > 100
  largest = max(np.abs(array).max() for array in expected.values())
  for name, gradient in found.items():
    scale = max(np.abs(expected[name]).max(), 1e-4 * largest)
    error = np.abs(gradient.numpy() - expected[name]).max()
    assert error <= 1e-3 * scale, name
  for name, _ in theirs.named_parameters():
    if name not in found:
      assert not np.any(expected[name]), name


@pytest.mark.slow
@needs_torch
def test_the_twin_trains_as_ours(monkeypatch):
  """Several steps of both optimizers; at a rate that tells them apart."""
  for module in (steps, twin):
    monkeypatch.setattr(module, "LEARNING_RATE", 1e-3)
  make_objective = steps.make_objective
  monkeypatch.setattr(
    steps,
    "make_objective",
    lambda model: make_objective(model, draw=twin.following),
  )
  step = steps.make_step(TINY)
  state, expected = jax.jit(step.start)(), []
  # Before they are donated.
  theirs = twin.make_twin(TINY, state.params)
  for _ in range(4):
    state, metrics = step.run(state, step.batch)
    expected.append(float(metrics["loss"]))
  optimizer = twin.make_optimizer(theirs)
  loss = twin.make_loss(theirs, TINY, twin.next_one)
  batch, found = twin.twin_batch(TINY), []
  for _ in range(4):
    optimizer.zero_grad()
    value = loss(batch)
    value.backward()
    optimizer.step()
    found.append(float(value.detach()))
  assert expected[0] - expected[-1] > 0.01
  np.testing.assert_allclose(found, expected, rtol=1e-3)


@needs_torch
def test_a_twin_with_another_loss_is_not_timed(monkeypatch):
  monkeypatch.setattr(twin, "losses", lambda case: (1.0, 1.001))
  with pytest.raises(Skipped, match="its loss is 1.001 and ours 1"):
    twin.contestants()[0].build(TINY)


def test_without_pytorch_the_twin_is_named(monkeypatch):
  monkeypatch.setattr(published, "version", lambda: None)
  found = timing.measure(twin.contestants(), TINY, rounds=1, max_seconds=9)
  (table,) = model_report.absent_tables(found)
  assert table.rows == [
    [name, "tiny, B=4 float32, no dropout", "PyTorch is not installed"]
    for name in (twin.EAGER, twin.COMPILED)
  ]


def test_torch_is_timed_in_float32_on_a_cpu_only(monkeypatch):
  monkeypatch.setattr(published, "version", lambda: "2")
  with pytest.raises(Skipped, match="bfloat16"):
    published.torch_on_cpu("bfloat16")
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  with pytest.raises(Skipped, match="on the CPU only"):
    published.torch_on_cpu("float32")


# Operations.


def test_operations_by_hand_are_near_those_of_xla():
  # In so small a model much is neither a matrix product nor attention.
  by_hand = sum(flops.by_hand(TINY).values())
  assert by_hand <= flops.by_xla(TINY) <= 3 * by_hand


def test_operations_are_proportional_to_the_batch():
  full = steps.StepCase("full", 4, "bfloat16", True)
  one, two = (flops.by_hand(full._replace(batch=b)) for b in (4, 8))
  assert one.keys() == two.keys()
  for part, operations in one.items():
    assert two[part] == 2 * operations
  # Most of them are 6 for each weight of the vision tower and token.
  tokens = 4 * 2 * 257
  weights = 40 * (4 * 1408**2 + 2 * 1408 * 6144)
  assert 1 < one["vision"] / (6 * weights * tokens) < 1.1


def test_parameters_are_those_of_the_published_model():
  full = steps.StepCase("full", 4, "float32", True)
  # 1.01 10⁹ for vision, 90 10⁶ for sound and 138 10⁶ for text.
  assert 1.20e9 < flops.parameters(full) < 1.28e9


@pytest.mark.parametrize(
  "name,expected", [("NVIDIA H200", 989e12), ("TPU v5 lite", 197e12)]
)
def test_peaks_are_found_by_the_name_of_the_device(name, expected):
  class Device:
    device_kind = name

  assert flops.peak(Device()).flops == expected


def test_of_another_device_there_is_no_peak():
  assert flops.peak(jax.devices()[0]) is None


# Tables.


def timings(*, ours, eager, case=TINY):
  return [
    timing.Timing(case, twin.EAGER, twin.EAGER, eager),
    timing.Timing(case, twin.COMPILED, twin.EAGER, {}, skipped="no compiler"),
    timing.Timing(case, steps.OURS, steps.OURS, ours),
  ]


def test_steps_are_set_in_proportion():
  measured = timings(ours={0: 0.5, 1: 0.5}, eager={0: 1.0, 1: 1.0})
  table = model_report.step_table(measured, twin.EAGER)
  assert table.rows == [
    [twin.EAGER, "1000 ± 0 %, 4/s"],
    [twin.COMPILED, "–"],
    [steps.OURS, "500 ± 0 %, 0.5 x, 8/s"],
  ]
  assert "no compiler" in tables.as_text(*model_report.absent_tables(measured))
  eager, compiled = model_report.assess(measured)
  assert eager.met and eager.measured == 0.5
  assert compiled.met is None
  # While others are still to be measured there is no goal to compare.
  assert model_report.assess(measured[:1]) == []


def test_a_slower_step_misses_the_goal():
  goal, _ = model_report.assess(timings(ours={0: 2.0}, eager={0: 1.0}))
  assert goal.met is False


def test_use_of_a_device_is_shown_if_its_peak_is_known():
  measured = timings(ours={0: 0.5}, eager={0: 1.0})
  counted = [model_report.Counted(TINY, 1_000_000, {"all": 2e12}, 3e12)]
  peak = flops.Peak(16e12, "a data sheet")
  table = model_report.utilisation_table(measured, counted, "A", peak)
  assert table.rows[1] == [steps.OURS, str(TINY), "8", "4", "25 %"]
  table = model_report.utilisation_table(measured, counted, "B", None)
  assert "not known" in table.title
  assert table.rows[1][-1] == "–"
  (row,) = model_report.flops_table(counted).rows
  assert row[1:] == ["1.0 M", "2,000.0", "2,000.0", "3,000.0", "1.500"]


def test_use_of_a_device_has_a_goal_for_what_is_fine_tuned():
  case = steps.StepCase(steps.FINETUNED, 64, "bfloat16", True)
  measured = [
    timing.Timing(case, "slow", "slow", {0: 2.0}),
    timing.Timing(case, "fast", "slow", {0: 1.0}),
    timing.Timing(case, "large", "slow", {}, skipped="out of memory"),
  ]
  counted = [model_report.Counted(case, 1, {"all": 5e12}, 5e12)]
  peak = flops.Peak(10e12, "a data sheet")
  (goal,) = model_report.assess(measured, counted, peak)
  assert goal.met and goal.measured == 0.5
  slow = measured[:1]
  assert model_report.assess(slow, counted, peak)[0].met is False
  assert model_report.assess(measured, counted, None) == []
  assert model_report.assess(measured[2:], counted, peak) == []
  other = [each._replace(case=TINY) for each in measured]
  assert model_report.assess(other, counted, peak) == []


def test_micro_batches_do_not_change_the_loss():
  case = TINY._replace(dropout=False)
  whole, parts = (
    float(steps.build({}, size)(case)()) for size in (None, case.batch // 2)
  )
  assert whole == pytest.approx(parts, rel=1e-4)


def test_fine_tuning_reads_four_times_the_frames():
  case = steps.StepCase(steps.FULL, 4, "bfloat16", True)
  full = flops.by_hand(case)
  finetuned = flops.by_hand(case._replace(size=steps.FINETUNED))
  assert finetuned["vision"] == 4 * full["vision"]
  assert finetuned["audio"] == full["audio"]


def test_what_was_compiled_is_shown():
  towers = [
    step_compilation.TowerCompilation(TINY, 4, True, 0.5, 1.25),
    step_compilation.TowerCompilation(TINY, 4, False, 1.0, 9.0),
  ]
  table = model_report.compilation_table(towers)
  assert table.rows == [["a loop", "0.5 + 1.2"], ["unrolled", "1.0 + 9.0"]]
  memories = [
    step_compilation.StepMemory(TINY, remat, 1.0, size, 10**6)
    for remat, size in (("none", 2 * 10**9), ("full", 10**9))
  ]
  assert model_report.memory_table(memories).rows == [
    ["remat none", "2 GB"],
    ["remat full", "1 GB"],
    ["state and batch", "1 MB"],
  ]
  found = model_report.as_json(towers, memories, [])
  assert found["memory"][0]["remat"] == "none"
  json.dumps(found)


# The program.


@pytest.mark.slow
def test_recomputing_saves_memory():
  none, full = (
    step_compilation.compile_step(TINY, remat).temporary_bytes
    for remat in ("none", "full")
  )
  assert full < none


@pytest.mark.slow
def test_the_program_writes_what_it_prints(call, tmp_path):
  output, page = tmp_path / "model.json", tmp_path / "page.md"
  ended = call(
    model.main,
    "--model_size=tiny",
    "--batch=4",
    "--rounds=2",
    "--depths=1,2",
    "--nofull",
    f"--output={output}",
    f"--markdown={page}",
  )
  assert ended.code == 0
  found = json.loads(output.read_text())
  times = {(t["name"], t["dropout"]): t for t in found["timings"]}
  for dropout in (True, False):
    for name in (steps.OURS, "pmrl_jax, layers in a loop"):
      assert times[name, dropout]["median_seconds"] > 0
    eager = times[twin.EAGER, dropout]
    is_there = published.version() is not None
    assert is_there == (eager["skipped"] is None), eager["skipped"]
  assert found["complete"] is True
  assert len(found["compilation"]) == 4
  assert [m["remat"] for m in found["memory"]] == list(
    step_compilation.POLICIES
  )
  assert math.isclose(
    sum(found["operations"][0]["by_hand"].values()),
    sum(flops.by_hand(TINY).values()),
  )
  text = page.read_text()
  assert "<!-- begin model on cpu -->" in text and "remat dots" in text
  assert "remat dots" in ended.out


def test_an_interrupted_program_leaves_what_it_has(call, tmp_path, monkeypatch):
  """Here in the second of three parts, after two of its four measurements."""
  output, page = tmp_path / "model.json", tmp_path / "page.md"
  measured = iter((True, True))

  def compile_tower(case, depth, *, scan_layers):
    if not next(measured, False):
      raise KeyboardInterrupt
    return step_compilation.TowerCompilation(case, depth, scan_layers, 1.0, 2.0)

  monkeypatch.setattr(timing, "measure", lambda *_, **__: timings(
    ours={0: 0.5}, eager={0: 1.0}
  ))  # fmt: skip
  monkeypatch.setattr(step_compilation, "compile_tower", compile_tower)
  ended = call(
    model.main,
    "--model_size=tiny",
    "--depths=1,2",
    f"--output={output}",
    f"--markdown={page}",
  )
  assert ended.code == 130
  found = json.loads(output.read_text())
  assert found["complete"] is False
  assert len(found["compilation"]) == 2 and not found["memory"]
  names = [timing["name"] for timing in found["timings"]]
  assert names == 2 * [twin.EAGER, twin.COMPILED, steps.OURS]
  assert found["goals"][0]["measured"] == 0.5
  # A page has all tables or those of before.
  assert not page.exists()


@pytest.mark.parametrize(
  "flag,message",
  [("--depths=0", "depths must be integers"), ("--batch=1", "at least 2")],
)
def test_a_wrong_flag_is_explained(call, flag, message):
  ended = call(model.main, flag)
  assert ended.code == 2
  assert message in ended.err
