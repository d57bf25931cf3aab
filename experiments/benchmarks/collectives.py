"""What devices send each other, read from a compiled program's text."""

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

_KINDS = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)
_COLLECTIVE = re.compile(
  rf"= (?P<type>.+?) (?P<kind>{'|'.join(_KINDS)})(?P<start>-start)?\("
)
_CHANNEL = re.compile(r"channel_id=(\d+)")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.-]+) .*\{$")
_NAMES = r"=(?:\{([^}]*)\}|(%?[\w.-]+))"
_CALLED = re.compile(
  "(?:body|condition|calls|to_apply|called_computations|branch_computations|"
  f"true_computation|false_computation){_NAMES}"
)
_FUSED = re.compile(rf"(?:calls|called_computations){_NAMES}")
_LOOP = re.compile(rf"\bwhile\(.*?body{_NAMES}")
_ARRAY = re.compile(r"\w+\[[\d,]*\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(rf"\bwhile\(.*?condition{_NAMES}")
_LIMIT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
# Devices that talk to each other, listed, as an array, or as axes of a mesh.
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_TILED = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] *\{([^}]*)\}")
_AXIS = re.compile(r"'(\w+)'=(\d+)")
_PART_OF_AXES = re.compile(r"'(\w+)'(?::\(\d+\)(\d+))?")


class Collective(NamedTuple):
  """A kind of communication and what it results in."""

  kind: str
  arrays: str  # types and shapes of the results on a device
  in_loop: bool  # then it happens once in every iteration


def count(text: str) -> Counter[Collective]:
  """Counts the collectives of a program.

  Args:
    text: The optimised HLO, `compiled.as_text()`.

  Returns:
    How many different ones of each there are in the program.
  """
  computations = _split(text)
  in_loop = _reachable(computations, _named(computations, _LOOP))
  fused = _reachable(computations, _named(computations, _FUSED))
  found: Counter[Collective] = Counter()
  parts = set()
  for name, lines in computations.items():
    for line in lines:
      match = _COLLECTIVE.search(line)
      if match is None:
        continue
      collective = Collective(match["kind"], _results(match), name in in_loop)
      if name in fused:
        # What a compiler overlaps with computations it splits in parts.
        part = (collective, _channel(line))
        if part in parts:
          continue
        parts.add(part)
      found[collective] += 1
  return found


class Traffic(NamedTuple):
  """What one kind of communication moves in a program."""

  calls: int  # how often it happens
  sent_bytes: float  # by each device, with the rings that are usual


def traffic(text: str, num_devices: int) -> dict[str, Traffic]:
  """Adds up what a device sends in one run of a program.

  An iteration of a loop counts as often as it runs, as the compiler says or
  the loop's condition; a loop of which neither does counts once. Of the size
  S of what results, k devices send each: all-gather S (k-1)/k, reduce-scatter
  S (k-1), all-reduce 2 S (k-1)/k, all-to-all S (k-1)/k, collective-permute S.

  Args:
    text: The optimised HLO, `compiled.as_text()`.
    num_devices: Of the program, for those groups that the text leaves out.

  Returns:
    `{kind: traffic}` of those that happen.
  """
  computations = _split(text)
  times = _times(computations)
  fused = _reachable(computations, _named(computations, _FUSED))
  found: dict[str, Traffic] = {}
  parts = set()
  for name, lines in computations.items():
    for line in lines:
      match = _COLLECTIVE.search(line)
      if match is None or not times[name]:
        continue
      if name in fused:
        part = (match["kind"], _results(match), _channel(line))
        if part in parts:
          continue
        parts.add(part)
      kind, size = match["kind"], _size_in_bytes(_results(match))
      group = _group_size(line, num_devices)
      if kind == "all-reduce" and "all-reduce-scatter" in name:
        # Each device keeps its part of the sum: TPUs fuse it so.
        kind, size = "reduce-scatter", size / group
      sent = times[name] * size * _SENT[kind](group)
      before = found.get(kind, Traffic(0, 0.0))
      found[kind] = Traffic(
        before.calls + times[name], before.sent_bytes + sent
      )
  return found


# By the number of devices.
_SENT: dict[str, Callable[[int], float]] = {
  "all-gather": lambda k: (k - 1) / k,
  "all-reduce": lambda k: 2 * (k - 1) / k,
  "all-to-all": lambda k: (k - 1) / k,
  "collective-permute": lambda k: 1.0,
  "reduce-scatter": lambda k: k - 1.0,
}


def _times(computations: dict[str, list[str]]) -> Counter[str]:
  """How often each computation runs.

  A program's text has every computation before those that call it.
  """
  names = list(computations)
  times: Counter[str] = Counter()
  times[names[-1]] = 1
  for name in reversed(names):
    for line in computations[name]:
      trips = _trips(computations, line) if _LOOP.search(line) else 1
      for called in _names_in(_CALLED, line):
        times[called] += times[name] * trips
  return times


def _trips(computations: dict[str, list[str]], line: str) -> int:
  """How often a loop runs; the compiler for TPUs leaves it to the condition.

  That compares a counter with a constant; jax counts from 0 in ones.
  """
  if said := _TRIPS.search(line):
    return int(said[1])
  limits = [
    int(limit)
    for condition in _names_in(_CONDITION, line)
    for limit in _LIMIT.findall("\n".join(computations.get(condition, [])))
  ]
  return max(limits, default=1)


def _split(text: str) -> dict[str, list[str]]:
  """The lines of each computation by its name."""
  computations: dict[str, list[str]] = {}
  current: list[str] = []
  for line in text.splitlines():
    header = _COMPUTATION.match(line)
    if header:
      current = computations.setdefault(header["name"], [])
    else:
      current.append(line)
  return computations


def _named(
  computations: dict[str, list[str]], pattern: re.Pattern[str]
) -> set[str]:
  """The computations that lines name in a certain way."""
  return {
    name
    for lines in computations.values()
    for line in lines
    for name in _names_in(pattern, line)
  }


def _names_in(pattern: re.Pattern[str], line: str) -> list[str]:
  """The computations that one line names in a certain way."""
  return [
    name.lstrip("%")
    for match in pattern.finditer(line)
    for name in (match[1] or match[2] or "").split(", ")
  ]


def _reachable(computations: dict[str, list[str]], names: set[str]) -> set[str]:
  """Some computations, and those that are called from them."""
  seen: set[str] = set()
  while names:
    seen |= names
    called = {name: computations.get(name, []) for name in names}
    names = _named(called, _CALLED) - seen
  return seen


def _results(match: re.Match[str]) -> str:
  """The arrays that come out, without layouts."""
  arrays = _ARRAY.findall(match["type"])
  if match["start"] and match["kind"] in ("all-gather", "collective-permute"):
    # The start of these yields what goes in as well, and some tokens.
    arrays = [array for array in arrays if array != "u32[]"]
    arrays = arrays[len(arrays) // 2 :]
  return " ".join(arrays)


def _channel(line: str) -> str | None:
  channel = _CHANNEL.search(line)
  return channel and channel[1]


def _group_size(line: str, num_devices: int) -> int:
  """How many devices talk to each other."""
  if listed := _LISTED.search(line):
    return len(listed[1].split(","))
  if tiled := _TILED.search(line):
    return int(tiled[1])
  if mesh := _MESH.search(line):
    sizes = {name: int(size) for name, size in _AXIS.findall(mesh[1])}
    return math.prod(
      int(part or sizes[name]) for name, part in _PART_OF_AXES.findall(mesh[2])
    )
  return num_devices


def _size_in_bytes(arrays: str) -> float:
  """The size of arrays such as "f32[2,3] pred[4]"."""
  total = 0.0
  for array in arrays.split():
    dtype, _, shape = array.rstrip("]").partition("[")
    bits = re.search(r"\d+", dtype)
    count = math.prod(int(n) for n in shape.split(",") if n)
    total += count * (int(bits[0]) / 8 if bits else 1)
  return total
