"""What the figures were measured on."""

import os
import platform
from pathlib import Path
from typing import Any

import jax

from experiments import workdir
from experiments.benchmarks import published


def describe() -> dict[str, Any]:
  """Names the machine, the devices and the versions."""
  return {
    "cpu": _cpu_model(),
    "cores": cores(),
    "memory_gb": round(
      os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1
    ),
    "devices": workdir.devices(),
    "platform": jax.default_backend(),
    "python": platform.python_version(),
    # How the C library allocates, such as in huge pages.
    "glibc_tunables": os.environ.get("GLIBC_TUNABLES"),
    "versions": workdir.versions() | {"torch": published.version()},
    "git_revision": workdir.git_revision(),
  }


def sentence(machine: dict[str, Any]) -> str:
  """The machine in a line of text."""
  versions = machine["versions"]
  torch = versions["torch"]
  tunables = machine["glibc_tunables"]
  return (
    f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB; "
    f"devices: {machine['devices']}; Python {machine['python']}, jax "
    f"{versions['jax']}, jaxlib {versions['jaxlib']}, "
    f"{f'torch {torch}' if torch else 'no torch'}; revision "
    f"{machine['git_revision'] or 'unknown'}"
    f"{f'; GLIBC_TUNABLES={tunables}' if tunables else ''}"
  )


def cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _cpu_model() -> str:
  try:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  except OSError:
    pass  # not Linux
  return platform.processor() or platform.machine()
