"""Beam writes the same files."""

import subprocess
import sys

import numpy as np
import pytest

from pmrl_jax.data import TooManyFailuresError
from pmrl_jax.data.manifest import build, build_with_beam, read_manifest, verify

# TFDS, with the older protobuf that Beam asks for.
pytestmark = pytest.mark.filterwarnings(
  r"ignore:label\(\) is deprecated:DeprecationWarning"
)


def tree(folder):
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def test_beam_writes_what_build_writes(mixed, tmp_path):
  (tmp_path / "4.npy").write_bytes(b"no array")
  manifest = read_manifest(mixed)
  settings = {"num_shards": 3, "max_bad": 0.1}
  built = build(manifest, tmp_path / "here", workers=1, **settings)
  beamed = build_with_beam(
    manifest,
    tmp_path / "beam",
    pipeline_options=["--runner=DirectRunner"],
    **settings,
  )
  assert beamed == built._replace(folder=tmp_path / "beam")
  assert tree(tmp_path / "beam") == tree(tmp_path / "here")
  assert verify(tmp_path / "beam") == []


def test_what_beam_began_is_finished_by_build(mixed, tmp_path):
  good = (tmp_path / "4.npy").read_bytes()
  (tmp_path / "4.npy").write_bytes(b"no array")
  manifest = read_manifest(mixed)
  out = tmp_path / "out"
  with pytest.raises(TooManyFailuresError, match="item 4"):
    build_with_beam(manifest, out, num_shards=5, max_bad=0)
  before = {p: p.stat().st_mtime_ns for p in out.glob("*array_record*")}
  assert len(before) == 5
  (tmp_path / "4.npy").write_bytes(good)
  assert build(manifest, out, num_shards=5, max_bad=0).num_bad == 0
  changed = [p.name for p in before if p.stat().st_mtime_ns != before[p]]
  assert changed == ["mixed-train.array_record-00002-of-00005"]


def test_without_beam_the_extra_is_named(mixed, tmp_path):
  program = (
    "import sys\n"
    "sys.modules['apache_beam'] = None\n"
    "from pmrl_jax.data.manifest import build_with_beam, read_manifest\n"
    f"build_with_beam(read_manifest({str(mixed)!r}), 'out')\n"
  )
  ended = subprocess.run(
    [sys.executable, "-c", program],
    cwd=tmp_path,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert "pip install 'pmrl_jax[beam]'" in ended.stderr
  assert not (tmp_path / "out").exists()
  assert np.load(tmp_path / "0.npy").size
