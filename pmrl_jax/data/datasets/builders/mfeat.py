"""TFDS builder of `mfeat`: six views of the same 2,000 handwritten digits."""

from __future__ import annotations

import inspect
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from pmrl_jax.data.datasets.builders import raw

NUM_ROWS = 2000
NUM_ROWS_PER_CLASS = 200
# The number of columns, the type to store, and what 1 is stored as.
VIEWS: dict[str, tuple[int, type[np.number], int]] = {
  "pix": (240, np.uint8, 1),
  "fou": (76, np.uint8, 320),
  "fac": (216, np.uint16, 1),
  "zer": (47, np.float16, 1),
  "kar": (64, np.int8, 7),
  "mor": (6, np.float32, 1),
}

_OBTAIN = (
  "Download 'Multiple Features' from the UCI Machine Learning Repository "
  "(dataset 72) and put mfeat-pix, mfeat-fou, mfeat-fac, mfeat-zer, mfeat-kar "
  "and mfeat-mor into the folder of raw files."
)
_CITATION = """\
@misc{mfeat,
  author = {Duin, R.},
  title = {Multiple Features},
  year = {1998},
  publisher = {UCI Machine Learning Repository},
  doi = {10.24432/C5HC70},
}"""


class Mfeat(tfds.core.GeneratorBasedBuilder):
  """Six views of 2,000 handwritten digits (UCI Multiple Features).

  `pix`: 240 pixel averages; `fou`: 76 Fourier coefficients of the shape;
  `fac`: 216 profile correlations; `zer`: 47 Zernike moments; `kar`: 64
  Karhunen-Loeve coefficients; `mor`: 6 morphological features. All six views
  of a record show the same digit.

  To keep the package small, precision is given up: `fou` is stored in units
  of 1/320 and `kar` in units of 1/7, rounded to whole numbers (an error of at
  most 2.5 % and 4.7 % of a column's standard deviation, root mean square),
  `zer` as float16 and `mor` as float32. `pix` and `fac` are exact.

  The data has no official split. In the test split are 60 digits of each
  class, listed in `mfeat_test_rows.txt` (the last 60 of a permutation of each
  class's rows by one `numpy.random.default_rng(0)`). Within a split the
  records keep the order of the raw files.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}
  MANUAL_DOWNLOAD_INSTRUCTIONS = _OBTAIN
  # Where TFDS looks for checksums of downloads, of which there are none.
  code_path = None

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=inspect.cleandoc(type(self).__doc__ or ""),
      features=tfds.features.FeaturesDict(
        {
          "label": tfds.features.ClassLabel(num_classes=10),
          **{
            view: tfds.features.Tensor(
              shape=(size,),
              dtype=dtype,
              # Counts from 0 to 6 pack well; the other views do not.
              encoding="zlib" if view == "pix" else "bytes",
            )
            for view, (size, dtype, _) in VIEWS.items()
          },
        }
      ),
      citation=_CITATION,
      license="CC BY 4.0",
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> Mapping[str, Iterator[tuple[int, dict[str, Any]]]]:
    views = _read_views(pathlib.Path(dl_manager.manual_dir))
    is_test = np.zeros(NUM_ROWS, bool)
    is_test[read_test_rows()] = True
    return {
      "train": _examples(views, np.flatnonzero(~is_test)),
      "test": _examples(views, np.flatnonzero(is_test)),
    }

  def _generate_examples(self):
    raise NotImplementedError("`_split_generators` returns the examples.")


def read_test_rows() -> np.ndarray:
  """Returns the 600 rows of the raw files that are the test split."""
  path = pathlib.Path(__file__).parent / "mfeat_test_rows.txt"
  return np.loadtxt(path, dtype=np.int64).ravel()


def _read_views(folder: pathlib.Path) -> dict[str, np.ndarray]:
  views = {}
  for view, (size, dtype, scale) in VIEWS.items():
    path = folder / f"mfeat-{view}"
    table = raw.read_table(
      path,
      num_rows=NUM_ROWS,
      num_columns=size,
      delimiter=None,
      obtain=_OBTAIN,
    )
    views[view] = raw.cast(
      table * scale,
      dtype=dtype,
      name=path.name,
      obtain=_OBTAIN,
      rounding=scale != 1,
    )
  return views


def _examples(
  views: Mapping[str, np.ndarray], rows: np.ndarray
) -> Iterator[tuple[int, dict[str, Any]]]:
  for row in rows.tolist():
    # The raw files hold the ten classes one after the other.
    example = {"label": row // NUM_ROWS_PER_CLASS}
    yield row, example | {view: table[row] for view, table in views.items()}
