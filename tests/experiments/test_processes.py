"""Several processes train as one does, and stop together."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import chex
import numpy as np
import pytest

from experiments import cli, train
from pmrl_jax import training

TINY = Path(__file__).with_name("tiny_config.py")
ROOT = Path(__file__).parents[2]
RUN = Path("runs") / "tiny_config"
STEPS = 40
HEARTBEAT = 10
DEVICES = 8
# For programs that run a few steps.
QUICKLY = os.environ["XLA_FLAGS"]
# How much slower than needed a crowded machine may be.
PATIENCE = 240


def _free_port():
  with socket.socket() as server:
    server.bind(("127.0.0.1", 0))
    return server.getsockname()[1]


class _Cluster:
  """Programs that were started together."""

  def __init__(self, processes):
    self.processes = processes

  def wait(self, seconds=PATIENCE):
    """`(exit codes, what they said, errors)`, by process."""
    said = [p.communicate(timeout=seconds) for p in self.processes]
    codes = [process.returncode for process in self.processes]
    return codes, [out for out, _ in said], [err for _, err in said]

  def kill(self):
    for process in self.processes:
      process.kill()


def _devices(count):
  """The flag of XLA for so many."""
  return f"--xla_force_host_platform_device_count={count}"


@contextlib.contextmanager
def _started(commands, places, env):
  """Programs of the same cluster, that end with the context."""
  cluster = _Cluster([])
  try:
    for command, place in zip(commands, places, strict=True):
      cluster.processes.append(
        subprocess.Popen(
          [sys.executable, *command],
          cwd=place,
          env=env,
          stdout=subprocess.PIPE,
          stderr=subprocess.PIPE,
          text=True,
        )
      )
    yield cluster
  finally:
    cluster.kill()


@pytest.fixture
def launch_program(environment):
  """`launch_program(folder, count, *command)` starts it in processes."""

  def launch_processes(folder, count, *command, places=None):
    port = _free_port()
    several = [
      [
        f"--coordinator=127.0.0.1:{port}",
        f"--num_processes={count}",
        f"--process_id={index}",
        f"--heartbeat_timeout={HEARTBEAT}",
      ]
      for index in range(count)
    ]
    return _started(
      [["-m", *command, *(each if count > 1 else [])] for each in several],
      places or [folder] * count,
      environment | {"XLA_FLAGS": _devices(DEVICES // count)},
    )

  return launch_processes


@pytest.fixture
def launch(launch_program):
  """`launch(folder, count, *arguments)` trains in processes; a context."""

  def launch_training(folder, count, *arguments, **options):
    command = ["experiments.train", f"--config={TINY}"]
    command += [f"--config.steps={STEPS}", *arguments]
    return launch_program(folder, count, *command, **options)

  return launch_training


@pytest.fixture
def undisturbed(once, launch, write_arrays):
  """`undisturbed(count)`: the folder of a run in so many processes."""

  def make(count):
    def fill(folder):
      write_arrays(folder)
      with launch(folder, count) as cluster:
        codes, out, err = cluster.wait()
      assert codes == [0] * count, err
      assert "report: runs/tiny_config/report.html" in out[0]
      for other in out[1:]:
        assert "report" not in other and "step" not in other
      assert not any("error" in text for text in err)

    return once(f"undisturbed_{count}", fill) / RUN

  return make


def _losses(workdir):
  rows = training.read_metrics(workdir)
  return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}


def _wait_for_step(cluster, workdir, step):
  """Waits until a step has been taken."""
  until = time.monotonic() + PATIENCE
  while time.monotonic() < until:
    assert all(process.poll() is None for process in cluster.processes)
    if (workdir / "metrics.jsonl").exists():
      if max(_losses(workdir), default=0) >= step:
        return
    time.sleep(0.02)
  raise TimeoutError(f"step {step} was not reached")


def _last_checkpoint(workdir):
  names = [path.name for path in (workdir / "checkpoints").iterdir()]
  return max(int(name) for name in names if name.isdigit())


def _check_alike(workdir, expected, saved_state, tolerance=1e-5):
  losses, expected_losses = _losses(workdir), _losses(expected)
  assert list(losses) == list(expected_losses) == list(range(1, STEPS + 1))
  np.testing.assert_allclose(
    list(losses.values()), list(expected_losses.values()), rtol=tolerance
  )
  chex.assert_trees_all_close(
    saved_state(workdir, STEPS)["params"],
    saved_state(expected, STEPS)["params"],
    rtol=tolerance,
    atol=tolerance,
  )


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_as_one_does(undisturbed, saved_state, count):
  _check_alike(undisturbed(count), undisturbed(1), saved_state)
  names = {path.name for path in undisturbed(count).iterdir()}
  assert names == {path.name for path in undisturbed(1).iterdir()}
  sessions = (undisturbed(count) / "sessions.jsonl").read_text().splitlines()
  assert len(sessions) == 1 and f'"processes": {count}' in sessions[0]


@pytest.fixture
def made(once, environment):
  """`made(processes, devices)`: what `mesh_runs` wrote, by run and mesh."""

  def make(count, devices):
    def fill(folder):
      env = environment | {
        "XLA_FLAGS": f"{QUICKLY} {_devices(devices // count)}"
      }
      address = f"127.0.0.1:{_free_port()}"
      commands = [
        ["-m", "tests.experiments.mesh_runs", str(folder)]
        + [address, str(count), str(index)] * (count > 1)
        for index in range(count)
      ]
      with _started(commands, [ROOT] * count, env) as cluster:
        codes, _, err = cluster.wait(4 * PATIENCE)
      assert codes == [0] * count, err

    folder = once(f"mesh_runs_{count}_of_{devices}", fill)
    return {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}

  return make


# The gradient of these is zero, since they shift all logits of a softmax, and
# Adam makes rounding errors as large as any other gradient.
WITHOUT_GRADIENT = re.compile(r"/key/bias$")


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4])
def test_runs_are_the_same_on_every_mesh(made, count):
  references, runs = made(1, 1), made(count, DEVICES)
  assert len(references) == 2 and len(runs) == 6
  for name, run in runs.items():
    kind, mesh = name.rsplit("_", 1)
    expected = references[f"{kind}_1x1"]
    assert set(run) == set(expected)
    assert (run["num_split"] > 0) == (not mesh.endswith("x1")), name
    np.testing.assert_allclose(run["losses"], expected["losses"], rtol=1e-5)
    np.testing.assert_allclose(run["measured"], expected["measured"], atol=0.02)
    for path in (path for path in run if "/" in path):
      tolerance = 2e-3 if WITHOUT_GRADIENT.search(path) else 2e-5
      np.testing.assert_allclose(
        run[path], expected[path], atol=tolerance, err_msg=f"{name} {path}"
      )


@pytest.mark.slow
def test_parameters_that_are_split_over_processes_go_on_elsewhere(
  tmp_path, launch, write_arrays, saved_state
):
  write_arrays(tmp_path)
  wide = [
    "--config.model.dim=256",
    "--config.model.default_encoder.width=256",
    "--config.ema_decay=0.9",
  ]
  workdir, whole = tmp_path / RUN, tmp_path / "whole"
  with launch(tmp_path, 1, *wide, f"--workdir={whole}") as cluster:
    codes, _, err = cluster.wait()
  assert codes == [0], err
  split = ["--config.mesh.data=1", "--config.mesh.fsdp=8"]
  with launch(tmp_path, 2, *wide, *split) as cluster:
    _wait_for_step(cluster, workdir, 6)
    cluster.processes[1].terminate()
    codes, _, err = cluster.wait()
  assert codes == [128 + signal.SIGTERM] * 2, err
  step = _last_checkpoint(workdir)
  shards = list((workdir / "checkpoints" / str(step)).rglob("ocdbt.process_*"))
  assert len(shards) == 2, shards
  other = ["--config.mesh.data=4", "--config.mesh.fsdp=2"]
  with launch(tmp_path, 4, *wide, *other) as cluster:
    codes, out, err = cluster.wait()
  assert codes == [0] * 4, err
  assert f"resumed from step {step} in {RUN}" in out[0]
  _check_alike(workdir, whole, saved_state)
  chex.assert_trees_all_close(
    saved_state(workdir, STEPS)["ema"],
    saved_state(whole, STEPS)["ema"],
    atol=1e-5,
  )


@pytest.mark.slow
def test_processes_measure_as_one_does(tmp_path, launch_program, undisturbed):
  summaries = []
  for count in (1, 2):
    output = tmp_path / str(count)
    command = ["experiments.evaluate", f"--workdir={undisturbed(1)}"]
    command += ["--step=best", f"--output={output}"]
    with launch_program(undisturbed(1).parents[1], count, *command) as cluster:
      codes, out, err = cluster.wait()
    assert codes == [0] * count, err
    assert ["report: " in text for text in out] == [True, False][:count]
    summaries.append(json.loads((output / "summary.json").read_text()))
  one, two = ({path.name for path in tmp_path.glob(f"{n}/*")} for n in (1, 2))
  assert one == two
  one, two = (summary["mean_R@1"] for summary in summaries)
  assert one == pytest.approx(two, abs=0.02)


@pytest.mark.slow
def test_others_stop_when_one_is_killed_and_the_run_goes_on(
  tmp_path, launch, write_arrays, undisturbed, saved_state
):
  write_arrays(tmp_path)
  chosen = random.Random()
  step, victim = chosen.randrange(6, STEPS - 8), chosen.randrange(1, 4)
  with launch(tmp_path, 4) as cluster:
    _wait_for_step(cluster, tmp_path / RUN, step)
    cluster.processes[victim].kill()
    killed = time.monotonic()
    codes, _, err = cluster.wait()
  # What is beyond the heartbeat is the crowd on the machine.
  assert time.monotonic() - killed < HEARTBEAT + 30
  for index, (code, text) in enumerate(zip(codes, err)):
    if index == victim:
      assert code == -signal.SIGKILL
      continue
    assert code == 1, (step, victim, text)
    assert (
      f"error: process {index}: stopped, since process {victim} stopped: it "
      f"has given no sign of life for {HEARTBEAT} s" in text
    )

  last = _last_checkpoint(tmp_path / RUN)
  assert 0 < last < STEPS
  fewer = tmp_path / "fewer"
  shutil.copytree(tmp_path, fewer, ignore=lambda *_: {"fewer"})
  for folder, count in ((tmp_path, 4), (fewer, 2)):
    with launch(folder, count) as cluster:
      codes, out, err = cluster.wait()
    assert codes == [0] * count, err
    assert f"resumed from step {last} in {RUN}" in out[0]
  chex.assert_trees_all_equal(
    saved_state(tmp_path / RUN, STEPS), saved_state(undisturbed(4), STEPS)
  )
  assert _losses(tmp_path / RUN) == _losses(undisturbed(4))
  _check_alike(fewer / RUN, undisturbed(4), saved_state)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_one_process_saves_and_stops_all(
  tmp_path, launch, write_arrays, undisturbed, saved_state, number
):
  write_arrays(tmp_path)
  workdir = tmp_path / RUN
  with launch(tmp_path, 2) as cluster:
    _wait_for_step(cluster, workdir, 6)
    cluster.processes[1].send_signal(number)
    codes, _, err = cluster.wait()
  assert codes == [128 + signal.SIGTERM, 128 + number], err
  said = re.search(
    r"SIGTERM: saved step (\d+) and stopped\. The same command", err[0]
  )
  assert said and "saved step" not in err[1], err
  step = int(said[1])
  assert 6 <= step < STEPS and _last_checkpoint(workdir) == step
  with launch(tmp_path, 2) as cluster:
    codes, out, err = cluster.wait()
  assert codes == [0, 0], err
  assert f"resumed from step {step} in {RUN}" in out[0]
  chex.assert_trees_all_equal(
    saved_state(workdir, STEPS), saved_state(undisturbed(2), STEPS)
  )


@pytest.mark.slow
def test_others_stop_when_the_coordinator_is_killed(
  tmp_path, launch, write_arrays
):
  write_arrays(tmp_path)
  with launch(tmp_path, 2) as cluster:
    _wait_for_step(cluster, tmp_path / RUN, 3)
    cluster.processes[0].kill()
    killed = time.monotonic()
    codes, _, err = cluster.wait()
  assert time.monotonic() - killed < HEARTBEAT + 30
  assert codes[0] == -signal.SIGKILL and codes[1] not in (0, None)
  assert "error: process 1: " in err[1]
  assert "process 0, the coordinator, has stopped" in err[1] or (
    "since process 0 stopped" in err[1]
  )


@pytest.mark.slow
def test_mistake_on_one_process_stops_all_with_its_message(
  tmp_path, launch, write_arrays
):
  places = [tmp_path / "0", tmp_path / "1"]
  for place in places:
    place.mkdir()
    write_arrays(place)
  (places[1] / "train.npz").unlink()
  workdir = tmp_path / "run"
  with launch(tmp_path, 2, f"--workdir={workdir}", places=places) as cluster:
    codes, _, err = cluster.wait()
  assert codes == [cli.MISTAKE] * 2, err
  assert "error: process 1: " in err[1] and "train.npz" in err[1]
  assert "error: process 0: stopped, since process 1 stopped: " in err[0]
  assert "train.npz" in err[0] and "Traceback" not in err[0] + err[1]
  assert not workdir.exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_all(tmp_path, launch, write_arrays):
  # The rate is too large for float32, whatever the data.
  write_arrays(tmp_path)
  rate = "--config.optimizer.learning_rate=1e38"
  with launch(tmp_path, 2, rate, f"--workdir={tmp_path / 'run'}") as cluster:
    codes, _, err = cluster.wait()
  assert codes == [cli.NON_FINITE] * 2, err
  for index, message in enumerate(err):
    assert f"error: process {index}: 10 steps in a row had no fin" in message
    assert "Traceback" not in message


@pytest.mark.slow
def test_workdir_is_checked_once_for_all(tmp_path, launch, write_arrays):
  write_arrays(tmp_path)
  (tmp_path / "taken").mkdir()
  (tmp_path / "taken" / "file").touch()
  with launch(tmp_path, 2, "--workdir=taken") as cluster:
    codes, _, err = cluster.wait()
  assert codes == [cli.MISTAKE] * 2, err
  message = "the workdir taken is not empty and holds no run"
  assert f"error: process 0: {message}" in err[0]
  assert f"process 1: stopped, since process 0 stopped: {message}" in err[1]


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_processes_that_do_not_meet_stop_with_one_message(tmp_path, run, index):
  began = time.monotonic()
  ended = run(
    "train",
    f"--config={TINY}",
    f"--coordinator=127.0.0.1:{_free_port()}",
    "--num_processes=2",
    f"--process_id={index}",
    "--initialization_timeout=4",
    cwd=tmp_path,
  )
  assert time.monotonic() - began < 60
  assert ended.code == cli.MISTAKE, ended
  assert ended.err.count("error: ") == 1
  assert "have not met within 4 s" in ended.err
  assert "127.0.0.1" in ended.err and not list(tmp_path.iterdir())


# Neighbours on the mesh are devices of different processes.
ORDER = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from experiments.embedding import build_embedder
from pmrl_jax.data import ArraySource

jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
devices = np.array(jax.devices()).reshape(2, 4).T.reshape(8, 1)
rows = np.arange(40, dtype=np.float32).reshape(20, 2)

class Model:
  def apply(self, variables, inputs, where):
    return jnp.stack([inputs["a"], inputs["b"]], axis=1), where

source = ArraySource({"a": rows, "b": -rows})
embed = build_embedder(Model(), Mesh(devices, ("data", "fsdp")), 16, False)
embedded = embed({}, source).embedding_set.embeddings
np.testing.assert_array_equal(embedded, np.stack([rows, -rows], axis=1))
print("in order")
"""


@pytest.mark.slow
def test_evaluation_keeps_the_order_on_a_mesh_that_mixes_processes(
  environment,
):
  address = f"127.0.0.1:{_free_port()}"
  commands = [["-c", ORDER, address, str(index)] for index in range(2)]
  env = environment | {"XLA_FLAGS": _devices(4)}
  with _started(commands, [ROOT] * 2, env) as cluster:
    codes, out, err = cluster.wait()
  assert codes == [0, 0], err
  assert all("in order" in text for text in out)


@pytest.mark.parametrize(
  "arguments,fragment",
  [
    (["--num_processes=2"], "have all to be given, got --num_processes=2"),
    (["--distributed=off", "--process_id=0"], "contradicts --process_id=0"),
    (
      ["--coordinator=a:1", "--num_processes=2", "--process_id=2"],
      "expected --process_id from 0 to 1, got 2",
    ),
    (
      ["--coordinator=host", "--num_processes=2", "--process_id=1"],
      "expected --coordinator=host:port, got 'host'",
    ),
  ],
)
def test_flags_that_say_too_little_are_explained(
  call, here, check_mistake, arguments, fragment
):
  ended = call(train.main, f"--config={TINY}", *arguments)
  check_mistake(ended, fragment)
  assert not (here / "runs").exists()
