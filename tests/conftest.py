"""Settings for every test: 8 CPU devices, no silent broadcasting."""

import importlib.metadata
import os
import pathlib
import signal

import numpy as np
import pytest

# Set in the environment, not through jax.config, so that the processes that
# tests start run on the same platform.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the suite's time goes into compiling small programs that run once, so
# they are optimized less. What tests start in processes of their own is
# compiled as for anyone; `XLA_FLAGS= make test` does so with everything.
# The last flag ends a process whose compiler does not know it any more.
os.environ.setdefault(
  "XLA_FLAGS",
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
  + (
    " --xla_cpu_use_fusion_emitters=false"
    if importlib.metadata.version("jaxlib").startswith(("0.9.", "0.10."))
    else ""
  ),
)

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# As in a terminal, for the processes that tests start too: what a shell runs in
# the background ignores interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared():
  """`shared("media")`: real data that is too large, or not ours, to ship.

  Tests marked `shared` use it, and are skipped where it is not at hand.
  """
  default = pathlib.Path(__file__).parents[2] / "shared"
  root = pathlib.Path(os.environ.get("PMRL_SHARED", default))

  def find(path):
    if not (root / path).exists():
      pytest.skip(f"there is no {root / path}; PMRL_SHARED names its folder")
    return root / path

  return find


@pytest.fixture(
  params=["shipped", pytest.param("whole", marks=pytest.mark.shared)]
)
def recorded(request):
  """`recorded("a.npz")`: recorded outputs, the part that ships, and all."""

  def read(name):
    path = pathlib.Path(__file__).parent / "goldens" / name
    if request.param == "whole":
      path = request.getfixturevalue("shared")(f"reference/goldens/{name}")
    with np.load(path, allow_pickle=False) as file:
      return dict(file)

  return read
