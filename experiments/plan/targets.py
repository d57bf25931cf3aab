"""What can be planned for: chips, how many of them, and their memory."""

import importlib.util
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax

_TPU = "https://cloud.google.com/tpu/docs/"
_NVIDIA = "https://www.nvidia.com/en-us/data-center/"


class Chip(NamedTuple):
  """A kind of device."""

  memory_gb: float | None  # 10^9 bytes as its maker gives them; None: a host's
  source: str


CHIPS: dict[str, Chip] = {
  "cpu": Chip(None, ""),
  "v5e": Chip(16, f"{_TPU}v5e"),
  "v5p": Chip(95, f"{_TPU}v5p"),
  "v6e": Chip(32, f"{_TPU}v6e"),
  "h100": Chip(80, f"{_NVIDIA}h100/ (SXM)"),
  "h200": Chip(141, f"{_NVIDIA}h200/"),
}
TPUS, GPUS = ("v5e", "v5p", "v6e"), ("h100", "h200")
LOCAL = "local"
KNOWN = (
  "v5e:4x4 (likewise 2x2 to 16x16), v6e:16x16 (likewise 2x2 to 16x16), "
  "v5p:4x4x4 (likewise 2x2x1 to 16x16x24), h100xN, h200xN, cpu, cpuxN, and "
  f"{LOCAL}, the devices at hand"
)
_NAME = re.compile(r"(?P<chip>[a-z0-9]+?)(?:x(?P<count>[1-9]\d*))?")
_TPU_NAME = re.compile(r"(?P<chip>[a-z0-9]+):(?P<shape>\d+(?:x\d+)+)")
# The compiler asks for the machine that it runs on, which is not the one that
# it compiles for.
_NO_TPU = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-16",
  "TPU_WORKER_HOSTNAMES": "localhost",
  # The compiler can be loaded by as many processes as there are.
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Target(NamedTuple):
  """Devices to compile for.

  Attributes:
    name: As it was asked for.
    devices: As the compiler knows them.
    memory_bytes: On each of them; None if it is not known.
    source: Where that is written.
    compiler: Whose figures the compiler's are: "tpu", "gpu" or "cpu".
    estimated: Whether they are not those of the target's own compiler.
  """

  name: str
  devices: Sequence[jax.Device]
  memory_bytes: int | None
  source: str
  compiler: str
  estimated: bool

  @property
  def platform(self) -> str:
    """What the devices are: "tpu", "gpu" or "cpu"."""
    return "gpu" if self.estimated else self.compiler


def find(name: str) -> Target:
  """The target of a name.

  Args:
    name: See `KNOWN`.

  Raises:
    ValueError: If it is unknown, or its compiler is not there.
  """
  if name == LOCAL:
    return _local()
  tpu = _TPU_NAME.fullmatch(name)
  if tpu and tpu["chip"] in TPUS:
    chip = CHIPS[tpu["chip"]]
    devices = tpu_devices(name)
    return Target(name, devices, _bytes(chip), chip.source, "tpu", False)
  match = _NAME.fullmatch(name)
  if tpu or not match or match["chip"] not in ("cpu", *GPUS):
    raise ValueError(_unknown(name))
  if match["chip"] in GPUS and not match["count"]:
    raise ValueError(f"{_unknown(name)}; for one GPU say {name}x1")
  chip = CHIPS[match["chip"]]
  devices = _cpus(name, int(match["count"] or 1))
  estimated = match["chip"] in GPUS
  return Target(name, devices, _bytes(chip), chip.source, "cpu", estimated)


def tpu_devices(topology: str) -> list[jax.Device]:
  """The chips of a topology, as the compiler for TPUs knows them.

  Args:
    topology: Such as "v5e:4x4".

  Raises:
    ValueError: If there is no compiler for TPUs or no such topology.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError(
      "the compiler for TPUs, libtpu, is not installed; it needs no TPU: "
      "pip install 'pmrl_jax[train,tpu]', in an environment of its own"
    )
  from jax.experimental import topologies

  for variable, value in _NO_TPU.items():
    os.environ.setdefault(variable, value)
  jax.config.update("jax_platforms", "cpu")
  try:
    described = topologies.get_topology_desc(
      platform="tpu", topology_name=topology
    )
  except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
    raise ValueError(
      f"{_unknown(topology)}; the compiler says: {str(error).splitlines()[0]}"
    ) from None
  return described.devices


def _unknown(name: str) -> str:
  return f"no topology {name!r} is known; known are {KNOWN}"


def _bytes(chip: Chip) -> int | None:
  return None if chip.memory_gb is None else int(chip.memory_gb * 10**9)


def _cpus(name: str, count: int) -> list[jax.Device]:
  """Devices that this CPU pretends to have."""
  try:
    jax.config.update("jax_platforms", "cpu")
    # Not among what jax declares of its settings.
    if count > jax.config.jax_num_cpu_devices:  # type: ignore[attr-defined]
      jax.config.update("jax_num_cpu_devices", count)
  except RuntimeError:
    pass  # they are counted already, as many as there are
  devices = jax.devices("cpu")
  if len(devices) < count:
    raise ValueError(
      f"{name} takes {count} devices, and this process has {len(devices)}; "
      "plan for it in a process of its own"
    )
  return devices[:count]


def _local() -> Target:
  """The devices at hand, with what they say of themselves."""
  devices = jax.devices()
  stats = devices[0].memory_stats() or {}
  return Target(
    LOCAL,
    devices,
    stats.get("bytes_limit"),
    f"what {devices[0].device_kind} says of itself",
    devices[0].platform,
    False,
  )
