"""The program that looks through manifests and builds data sets of them."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from absl.testing import flagsaver

from experiments import cli
from experiments.prepare import build, program
from pmrl_jax.data import read_records
from pmrl_jax.data.manifest import read_manifest

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "tests" / "data" / "fixtures" / "mdn_rabbit320.mp4"


@pytest.fixture
def prepare(monkeypatch, capfd):
  """`prepare("verify", folder)` gives the exit code and what was printed."""

  def call(*arguments):
    monkeypatch.setattr(sys, "argv", ["prepare", *map(str, arguments)])
    capfd.readouterr()
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
      program.start()
      sys.exit(0)  # as the interpreter does after the help
    return (ended.value.code or 0, *capfd.readouterr())

  return call


@pytest.fixture
def table(tmp_path, monkeypatch):
  """Three rows of an array and a text, in the working folder."""
  monkeypatch.chdir(tmp_path)
  rows = []
  for i in range(3):
    np.save(tmp_path / f"{i}.npy", np.full((2, 3), i))
    rows.append({"id": f"row {i}", "label": i, "scan": f"{i}.npy", "text": "x"})
  path = tmp_path / "table.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def test_a_sound_manifest_passes(prepare, table):
  code, out, err = prepare("validate", table, "--report=report.json")
  assert (code, err) == (0, "")
  assert "3 rows" in out and "nothing is broken" in out
  report = json.loads(Path("report.json").read_text())
  assert report["num_rows"] == 3 and report["num_problems"] == 0


def test_what_is_broken_is_printed_and_exits_with_1(prepare, table):
  Path("1.npy").write_bytes(b"no array")
  Path("2.npy").unlink()
  for arguments in (["validate", table], ["--workers=1", "validate", table]):
    code, out, _ = prepare(*arguments)
    assert code == 1
    assert "row 1 (id 'row 1'), scan: " in out and "no such file" in out
  code, out, _ = prepare("validate", table, "--shown=1")
  assert code == 1 and "and 1 more" in out and "--root" not in out
  np.save("1.npy", np.ones((2, 3)))
  code, out, _ = prepare("validate", table)
  assert code == 1 and "give the folder of the paths as --root" in out


def test_only_a_deep_look_finds_a_number_that_is_none(prepare, table):
  np.save("1.npy", np.full((2, 3), np.nan))
  assert prepare("validate", table)[0] == 0
  assert prepare("validate", table, "--deep")[0] == 1


def test_a_data_set_is_built_verified_and_read(prepare, table):
  code, out, err = prepare(
    "build", table, "--output=out", "--num_shards=2", "--name=mine"
  )
  assert (code, err) == (0, "") and "train: 3 examples" in out
  columns = read_records("out", "train")
  assert columns["scan"].shape == (3, 2, 3)
  assert columns["label"].tolist() == [0, 1, 2]
  assert prepare("verify", "out") == (
    0,
    "out: all files are as they were built\n",
    "",
  )
  shard = Path("out/mine-train.array_record-00001-of-00002")
  shard.write_bytes(b"\1" + shard.read_bytes()[1:])
  code, out, _ = prepare("verify", "out")
  assert code == 1 and shard.name in out


def test_too_many_broken_rows_stop_the_build(prepare, table):
  Path("1.npy").unlink()
  code, _, err = prepare("build", table, "--output=out", "--workers=1")
  assert code == cli.MISTAKE and "row 1, scan" in err
  assert "row 1" in Path("out/bad_examples.jsonl").read_text()
  code, out, _ = prepare(
    "build", table, "--output=out", "--workers=1", "--max_bad=0.5"
  )
  assert code == 0 and "1 of them lack what cannot be read" in out


def test_columns_can_be_left_out(prepare, table):
  code, out, _ = prepare("validate", table, "--kinds=scan:none")
  assert code == 0 and "not read: scan" in out and "array" not in out


def test_a_benchmark_becomes_a_manifest(prepare, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "videos").mkdir()
  (tmp_path / "videos" / "video1.mp4").write_bytes(CLIP.read_bytes())
  rows = [{"video_id": f"video{i}", "desc": f"text {i}"} for i in (1, 2)]
  (tmp_path / "descs_ret_test.json").write_text(json.dumps(rows))
  code, out, err = prepare(
    "manifest", "msrvtt", "--annotations=.", "--media=videos",
    "--output=test.parquet",
  )  # fmt: skip
  assert (code, err) == (0, "") and "2 of 1,000 rows" in out
  assert "next: python -m experiments.prepare validate test.parquet\n" in out
  manifest = read_manifest("test.parquet")
  assert manifest.ids == ["video1", "video2"]
  path = manifest.value(0, "video")
  assert path == (tmp_path / "videos" / "video1.mp4").resolve()
  assert manifest.value(1, "video") is None
  code, out, _ = prepare("validate", "test.parquet", "--workers=1")
  assert code == 0 and "sound in 1 of 1" in out
  # Elsewhere, the root has to be told.
  code, out, _ = prepare(
    "manifest", "msrvtt", "--annotations=.", "--media=videos",
    "--output=other/test.csv",
  )  # fmt: skip
  assert f"--root={tmp_path.resolve()}" in out
  assert pq.read_table("test.parquet").num_rows == 2


def test_a_known_data_set_is_prepared(prepare, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for folder in ("annotations", "videos"):
    (tmp_path / "copy" / folder).mkdir(parents=True)
  (tmp_path / "copy/videos/video1.mp4").write_bytes(CLIP.read_bytes())
  rows = [{"video_id": f"video{i}", "desc": f"text {i}"} for i in (1, 2)]
  path = tmp_path / "copy/annotations/descs_ret_test.json"
  path.write_text(json.dumps(rows))
  arguments = ["dataset", "retrieval/msrvtt", "--raw=copy", "--output=out"]
  code, out, err = prepare(*arguments)
  assert (code, err) == (0, "")
  assert "  test: 2 rows\n    video: 1 present\n" in out
  assert "note: test: 2 rows where test has 1,000 elsewhere" in out
  assert prepare(*arguments)[1].endswith(out.partition("test: ")[2])


MISTAKES = {
  "nothing": ([], ["validate, build, verify, manifest", "got nothing"]),
  "unknown verb": (["valdate", "x"], ["got 'valdate'", "--help"]),
  "no argument": (["validate"], ["one MANIFEST after validate, got nothing"]),
  "two arguments": (["verify", "a", "b"], ["one FOLDER", "['a', 'b']"]),
  "flag of another verb": (
    ["verify", "a", "--deep"],
    ["--deep is no flag of verify", "`verify --help`"],
  ),
  "unknown flag": (["validate", "a.csv", "--depe"], ["depe", "deep"]),
  "missing manifest": (["validate", "a.csv"], ["no manifest", "a.csv"]),
  "other form": (["validate", "table.txt"], [".parquet", "table.txt"]),
  "no output": (["build", "table.jsonl"], ["--output="]),
  "two ways to choose frames": (
    ["build", "table.jsonl", "--output=out", "--num_frames=2",
     "--frames_per_second=1"],
    ["either num_frames or frames_per_second"],
  ),
  "kinds without a colon": (
    ["validate", "table.jsonl", "--kinds=scan"],
    ["column:kind", "'scan'"],
  ),
  "unknown kind": (
    ["validate", "table.jsonl", "--kinds=scan:arry"],
    ["'array'", "got 'arry'"],
  ),
  "nothing to verify": (["verify", "."], ["checksums.json"]),
  "manifest without output": (
    ["manifest", "msrvtt", "--annotations=."],
    ["expected --output"],
  ),
  "unknown data set": (
    ["dataset", "retrieval/msrvt", "--raw=.", "--output=out"],
    ["retrieval/msrvtt", "got 'retrieval/msrvt'"],
  ),
  "data set without a copy": (
    ["dataset", "retrieval/msrvtt", "--output=out"], ["expected --raw"]
  ),
  "unknown benchmark": (
    ["manifest", "msrvt", "--annotations=.", "--output=x.csv"],
    ["'msrvtt'", "got 'msrvt'"],
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_explained(name, prepare, table):
  arguments, fragments = MISTAKES[name]
  before = sorted(Path().rglob("*"))
  code, out, err = prepare(*arguments)
  assert (code, out) == (cli.MISTAKE, "")
  assert err.startswith("error: ") and "Traceback" not in err
  for fragment in fragments:
    assert fragment in err
  assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("verb", [None, *program.VERBS])
def test_help_says_what_a_verb_does(verb, prepare):
  code, out, err = prepare(*([verb] if verb else []), "--help")
  assert (code, err) == (0, "")
  assert "python -m experiments.prepare" in out
  assert ("  --[no]deep: " in out) == (verb == "validate")
  assert all(len(line) <= 80 for line in out.splitlines())


def test_an_interrupted_build_says_that_it_goes_on(prepare, table, monkeypatch):
  def interrupt(*arguments, **settings):
    raise KeyboardInterrupt

  monkeypatch.setattr(build.manifest, "build", interrupt)
  code, _, err = prepare("build", table, "--output=out")
  assert code == 130
  assert err == (
    "interrupted: what is finished is kept in out. The same command goes on "
    "from there.\n"
  )
