"""What devices send each other, read from a compiled program's text."""

import re
from collections import Counter
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
_NAMES = r"=\{?(%?[\w.-]+(?:, %?[\w.-]+)*)"
_CALLED = re.compile(
  "(?:body|condition|calls|to_apply|called_computations|branch_computations|"
  f"true_computation|false_computation){_NAMES}"
)
_FUSED = re.compile(rf"(?:calls|called_computations){_NAMES}")
_LOOP = re.compile(rf"\bwhile\(.*?body{_NAMES}")
_ARRAY = re.compile(r"\w+\[[\d,]*\]")


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
        channel = _CHANNEL.search(line)
        part = (collective, channel and channel[1])
        if part in parts:
          continue
        parts.add(part)
      found[collective] += 1
  return found


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
    name.lstrip("%")
    for lines in computations.values()
    for line in lines
    for match in pattern.finditer(line)
    for name in match[1].split(", ")
  }


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
