"""Times the decoding of videos, and how much of loading a device hides.

  python -m experiments.benchmarks.data

Decodes a few frames of a 480p clip with our reader, in the published reader's
way, and with other libraries as far as they are installed; then runs loops as
in training. Prints tables and writes `runs/benchmarks/data.json`; see
docs/benchmarks.md.
"""

import importlib.util
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tqdm
from absl import flags

from experiments import cli, workdir
from experiments.benchmarks import (
  data_report,
  footage,
  machine,
  options,
  overlap,
  readers,
  report,
  tables,
  timing,
)

_CLIP = flags.DEFINE_string(
  "clip", None, "A video of your own to decode, beside the others."
)
_FRAMES = flags.DEFINE_list(
  "frames", None, "How many frames to decode. Default: 2,8,32."
)
_SIZE = flags.DEFINE_list(
  "size", ["480", "854", "30"], "Height, width and seconds of the drawn clip."
)
_CACHE = flags.DEFINE_string(
  "cache", "runs/benchmarks/footage", "The folder that keeps what was drawn."
)
_TURNS = flags.DEFINE_integer(
  "turns", 10, "Turns of each loop as in training; 0: no such loops."
)
flags.adopt_module_key_flags(cli)

_PLACE = "data on cpu"
_DEFAULT_FRAMES, _ROUNDS = (2, 8, 32), 7
_MAX_SECONDS = 60.0
# A real one, of the tests, if they are there.
_REAL = Path(__file__).parents[2] / "tests/data/fixtures/mdn_rabbit320.mp4"
_LOOP_SECONDS = 2.0  # of the clips in the loops
_SETTING = overlap.Setting(
  batch_size=4,
  num_frames=2,
  num_rows=64,
  num_turns=10,
  prefetch=4,
  num_workers=2,
)


def main() -> None:
  """Measures from the flags."""
  num_frames = options.numbers(_FRAMES, _DEFAULT_FRAMES, minimum=1)
  options.check_positive(options.ROUNDS)
  if _TURNS.value < 0:
    raise ValueError(f"--turns must not be negative, got {_TURNS.value}")
  size = _footage(_SIZE.value)
  if importlib.util.find_spec("av") is None:
    raise ValueError(
      "decoding video needs PyAV; install it with pip install 'pmrl_jax[media]'"
    )
  if _CLIP.value and not Path(_CLIP.value).is_file():
    raise ValueError(
      f"--clip: there is no file {_CLIP.value}; give the path of a video, or "
      "leave the flag out"
    )
  output = Path(options.OUTPUT.value or "runs/benchmarks/data.json")
  output.parent.mkdir(parents=True, exist_ok=True)
  page = Path(options.MARKDOWN.value) if options.MARKDOWN.value else None
  if page:
    tables.check_markdown(page, _PLACE)
  cache, load = Path(_CACHE.value), os.getloadavg()[0]
  timings = time_readers(
    clips(cache, size, Path(_CLIP.value) if _CLIP.value else None),
    num_frames,
    rounds=options.ROUNDS.value or _ROUNDS,
  )
  setting = _SETTING._replace(num_turns=_TURNS.value)
  overlaps = run_loops(cache, size, setting) if _TURNS.value else []
  write(timings, overlaps, setting, load, output, page)


def clips(
  cache: Path, size: footage.Footage, own: Path | None
) -> dict[str, Path]:
  """The videos to decode by their names: a drawn one, a real one, one's own.

  Args:
    cache: The folder that keeps what was drawn.
    size: Of the drawn one.
    own: One's own, if there is one.
  """
  if not (cache / size.name).exists():
    print(f"drawing {cache / size.name}, once", file=sys.stderr)
  found = {
    f"drawn {size.height}p, {size.seconds:g} s": footage.drawn(cache, size)
  }
  if _REAL.exists():
    found["mdn_rabbit320 (real, 240p, 8 s)"] = _REAL
  return found | ({own.name: own} if own else {})


def time_readers(
  videos: dict[str, Path], num_frames: Sequence[int], *, rounds: int
) -> list[timing.Timing[readers.Clip]]:
  """Times all readers on all clips.

  Args:
    videos: The clips by their names.
    num_frames: How many frames to decode.
    rounds: How often each is called, if it is fast.

  Returns:
    The timings, in seconds of CPU time of all threads together.
  """
  cases = [
    readers.Clip(name, str(path), num)
    for name, path in videos.items()
    for num in num_frames
  ]
  timings: list[timing.Timing[readers.Clip]] = []
  with tqdm.tqdm(cases, desc="decoding", unit="case") as bar:
    for case in bar:
      bar.set_description(str(case))
      timings += timing.measure(
        readers.contestants(),
        case,
        rounds=rounds,
        max_seconds=_MAX_SECONDS,
        clock=time.process_time,
        tell=bar.set_postfix_str,
      )
  return timings


def run_loops(
  cache: Path, size: footage.Footage, setting: overlap.Setting
) -> list[overlap.Overlap]:
  """Runs loops as in training, on short clips of a size."""
  size = size._replace(seconds=min(size.seconds, _LOOP_SECONDS))
  source = overlap.rows(cache, size, setting)
  with tqdm.tqdm(desc="loops", bar_format="{desc} {postfix}") as bar:
    return overlap.measure(source, setting, tell=bar.set_postfix_str)


def write(
  timings: Sequence[timing.Timing[readers.Clip]],
  overlaps: Sequence[overlap.Overlap],
  setting: overlap.Setting,
  load: float,
  output: Path,
  page: Path | None,
) -> None:
  """Prints the tables, and writes them and all figures.

  Args:
    timings: Of the readers.
    overlaps: Of the loops.
    setting: Of the loops.
    load: Of the machine before, which has other things to do above 1 or so.
    output: The file for the figures.
    page: The page for the tables, if there is one.
  """
  here = machine.describe()
  assessed = data_report.assess(timings, overlaps)
  versions = readers.versions()
  results: dict[str, Any] = {
    "machine": here,
    "command": sys.argv,
    "load": load,
    "readers": versions,
    "timings": report.timings_as_json(timings),
    "setting": setting._asdict(),
    "loops": data_report.loops_as_json(overlaps),
    "goals": report.goals_as_json(assessed),
  }
  workdir.write_atomically(output, json.dumps(results, indent=1) + "\n")
  found = [
    *data_report.reader_tables(timings),
    *data_report.loop_tables(overlaps, setting),
    report.goal_table(assessed),
  ]
  head = (
    f"{machine.sentence(here)}; load average before: {load:.1f}\n\n"
    f"{data_report.in_words(versions)}"
  )
  print("\n\n".join([head, *map(tables.as_text, found)]))
  print(f"\nresults: {output}")
  if page:
    tables.write_markdown(
      page, _PLACE, "\n\n".join([head, *map(tables.as_markdown, found)])
    )


def _footage(size: Sequence[str]) -> footage.Footage:
  """The size from its flag; x264 wants even sides."""
  try:
    height, width, seconds = int(size[0]), int(size[1]), float(size[2])
  except (IndexError, ValueError):
    height, width, seconds = 0, 0, 0.0
  if len(size) != 3 or min(height, width) < 32 or not 0.1 <= seconds <= 3600:
    raise ValueError(
      "--size must be a height and a width of at least 32 pixels and seconds "
      f"from 0.1 to 3600, as 480,854,30; got {','.join(size)!r}"
    )
  if height % 2 or width % 2:
    raise ValueError(
      f"--size: height and width must be even, got {height} and {width}"
    )
  return footage.Footage(height, width, seconds)


if __name__ == "__main__":
  cli.run(main)
