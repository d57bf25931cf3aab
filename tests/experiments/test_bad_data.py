"""Data that cannot be used: one message, nothing is written or unpickled."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest

from experiments import train

TINY = Path(__file__).with_name("tiny_config.py")


def _nan(rows):
  values = rows.copy()
  values[5, 2] = np.nan
  return values


DATA = {
  "NaN": ({"b": _nan}, ["'b' holds NaN or infinity in item 5", "where="]),
  "infinity": (
    {"a": lambda rows: rows / np.float32(0)},
    ["'a' holds NaN or infinity", "repair them"],
  ),
  "empty split": (
    {"a": np.zeros((0, 3)), "b": np.zeros((0, 4))},
    ["at least one, got {'a': 0, 'b': 0}"],
  ),
  "other numbers of rows": (
    {"b": np.zeros((7, 4))},
    ["the same number of rows", "'b': 7"],
  ),
  "texts": (
    {"b": lambda rows: np.full(len(rows), "word")},
    ["expected numbers in 'b'", "encode them"],
  ),
  "images for an encoder of tables": (
    {"b": lambda rows: np.zeros((len(rows), 4, 4), np.float32)},
    ["rows [batch, feature]", "4, 4"],
  ),
  "mask of another shape": (
    {"where": lambda rows: np.ones((len(rows), 3), bool)},
    ["where= of shape (64, 2) and type bool, got (64, 3)"],
  ),
  "labels that are no integers": (
    {"labels": lambda rows: rows[:, 0]},
    ["labels= of shape (64,) and an integer type"],
  ),
  "objects": (
    {"b": lambda rows: np.array([{}] * len(rows), object)},
    ["train.npz is no .npz file of plain arrays", "allow_pickle=False"],
  ),
}


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize("name", DATA)
def test_bad_data_is_explained(
  name, call, here, write_arrays, tree, check_mistake
):
  changes, fragments = DATA[name]
  write_arrays(here, **changes)
  before = tree(here)
  check_mistake(call(train.main, f"--config={TINY}"), *fragments)
  assert tree(here) == before and not (here / "runs").exists()


class _Exploit:
  """What a pickle may do when it is loaded."""

  def __reduce__(self):
    return Path.touch, (Path("exploited"),)


def _bytes(save, **arrays):
  buffer = io.BytesIO()
  save(buffer, **arrays)
  return buffer.getvalue()


def _compressed_and_scratched():
  content = bytearray(_bytes(np.savez_compressed, a=np.arange(1000)))
  content[len(content) // 2] ^= 0xFF
  return bytes(content)


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"no archive",
    b"PK\x03\x04 broken",
    _bytes(np.savez, a=np.zeros((9, 4)))[:-50],
    _compressed_and_scratched(),
    _bytes(np.save, arr=np.zeros((9, 4))),
    pickle.dumps(_Exploit()),
  ],
  ids=["empty", "text", "zip?", "cut off", "scratched", "npy", "pickle"],
)
def test_file_that_is_no_npz_is_refused_and_not_unpickled(
  content, call, here, check_mistake
):
  (here / "train.npz").write_bytes(content)
  ended = call(train.main, f"--config={TINY}")
  check_mistake(ended, "train.npz is no .npz file of plain arrays")
  assert not (here / "exploited").exists() and not (here / "runs").exists()


def test_splits_of_different_shape_are_explained(call, here, check_mistake):
  np.savez(
    here / "test.npz", a=np.zeros((8, 6), "f4"), b=np.zeros((8, 4), "f4")
  )
  ended = call(train.main, f"--config={TINY}")
  check_mistake(ended, "rows of the same shape", "(5,)", "(6,)")
