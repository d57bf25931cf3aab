"""Checkpoints are found and read, tensor by tensor; bad ones are explained."""

import pickle
import sys

import numpy as np
import pytest

from pmrl_jax.weights.files import open_checkpoint
from pmrl_jax.weights.safetensors_files import write_safetensors
from pmrl_jax.weights.tensors import lazy
from tests.weights.checkpoints import (
  TENSORS,
  bad_file,
  check,
  save,
  save_index,
  shards,
)


def test_what_is_written_is_read_again(tmp_path):
  save(tmp_path / "x.safetensors", note="mine")
  check(open_checkpoint(tmp_path / "x.safetensors"))
  check(open_checkpoint(str(tmp_path)))
  assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_the_library_of_the_format_reads_what_is_written(tmp_path):
  import safetensors

  save(tmp_path / "x.safetensors", note="mine")
  with safetensors.safe_open(tmp_path / "x.safetensors", "numpy") as file:
    assert file.metadata() == {"format": "pt", "note": "mine"}
    for key, array in TENSORS.items():
      np.testing.assert_array_equal(file.get_tensor(key), array)


def test_an_interrupted_file_leaves_nothing(tmp_path):
  tensors = {key: lazy(array) for key, array in TENSORS.items()}
  writing = iter(write_safetensors(tmp_path / "x.safetensors", tensors))
  next(writing)
  assert len(list(tmp_path.iterdir())) == 1
  writing.close()
  assert not list(tmp_path.iterdir())


def test_what_the_format_cannot_hold_is_refused(tmp_path):
  tensors = {"c": lazy(np.ones(2, np.complex128))}
  with pytest.raises(ValueError, match="c is complex128, which safetensors"):
    list(write_safetensors(tmp_path / "x.safetensors", tensors))
  wrong = lazy(np.ones(2))._replace(shape=(3,))
  with pytest.raises(ValueError, match=r"should be float64 \(3,\), got .*2,"):
    list(write_safetensors(tmp_path / "x.safetensors", {"c": wrong}))


@pytest.mark.parametrize("has_index", [True, False])
def test_shards_are_one_checkpoint(tmp_path, has_index):
  files = shards(".safetensors")
  for name, half in files.items():
    save(tmp_path / name, half)
  if has_index:
    save_index(tmp_path / "model.safetensors.index.json", files)
    check(open_checkpoint(tmp_path / "model.safetensors.index.json"))
  check(open_checkpoint(tmp_path))
  check(open_checkpoint(tmp_path / "model-00002-of-00002.safetensors"))
  (tmp_path / "model-00001-of-00002.safetensors").unlink()
  with pytest.raises(FileNotFoundError, match="missing: .*model-00001-of"):
    open_checkpoint(tmp_path)


def test_an_index_that_lies_is_found_out(tmp_path):
  files = shards(".safetensors")
  for name, half in files.items():
    save(tmp_path / name, half)
  first = next(iter(files))
  index = tmp_path / "model.safetensors.index.json"
  save_index(index, {**files, first: [*files[first], "b.weight"]})
  with pytest.raises(ValueError, match=r"1 keys .* do not have: \['b.weight'"):
    open_checkpoint(tmp_path)
  for content, message in [
    ("{", "is no JSON"),
    ("[]", "should hold a JSON object"),
    ('{"weight_map": 3}', "should hold a weight_map"),
    ('{"weight_map": {"a": "../x.safetensors"}}', "a file beside it"),
    ('{"weight_map": {"a": 3}}', "should hold a weight_map"),
  ]:
    index.write_text(content)
    with pytest.raises(ValueError, match=message):
      open_checkpoint(index)


def test_one_key_in_two_shards_is_refused(tmp_path):
  for name in shards(".safetensors"):
    save(tmp_path / name)
  with pytest.raises(ValueError, match="are in another shard already"):
    open_checkpoint(tmp_path)


def test_a_bad_safetensors_file_is_explained(tmp_path):
  save(tmp_path / "good.safetensors")
  good = (tmp_path / "good.safetensors").read_bytes()
  for content, message in [
    (b"", "is empty; copy or download it again"),
    (b"a text that was renamed\n" * 9, "is no safetensors file, or it is trun"),
    (good[:-3], "is no safetensors file, or it is truncated"),
    (good[:40], "is no safetensors file, or it is truncated"),
    (pickle.dumps({"w": [1.0]}), "is no safetensors file, or it is truncated"),
    (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
  ]:
    path = bad_file(tmp_path, "bad.safetensors", content)
    with pytest.raises(ValueError, match=message) as caught:
      open_checkpoint(path)
    assert str(path) in str(caught.value)


def test_what_is_no_checkpoint_is_explained(tmp_path):
  with pytest.raises(FileNotFoundError, match="nowhere.pt does not exist"):
    open_checkpoint(tmp_path / "nowhere.pt")
  with pytest.raises(ValueError, match="expected one of .safetensors, .bin"):
    open_checkpoint(bad_file(tmp_path, "notes.txt", b"hello"))
  with pytest.raises(FileNotFoundError, match="it has none"):
    open_checkpoint(tmp_path)
  save(tmp_path / "a.safetensors")
  save(tmp_path / "b.safetensors")
  with pytest.raises(FileNotFoundError, match="'b.safetensors'], choose one"):
    open_checkpoint(tmp_path)


@pytest.mark.parametrize("missing", ["torch", "safetensors"])
def test_a_missing_library_is_named_with_its_extra(
  tmp_path, monkeypatch, missing
):
  monkeypatch.setitem(sys.modules, missing, None)
  name = "x.pt" if missing == "torch" else "x.safetensors"
  extra = "torch" if missing == "torch" else "train"
  with pytest.raises(ImportError, match=rf"x\.\w+ .*pmrl_jax\[{extra}\]"):
    open_checkpoint(bad_file(tmp_path, name, b"something"))


def test_the_folder_of_a_published_run_is_understood(tmp_path, monkeypatch):
  """The highest step, by number; read as far as it goes without PyTorch."""
  monkeypatch.setitem(sys.modules, "torch", None)
  (tmp_path / "ckpt").mkdir()
  for step in (9, 100, 20):
    bad_file(tmp_path, f"ckpt/model_step_{step}.pt", b"something")
  bad_file(tmp_path, "ckpt/optimizer_step_200.pt", b"something")
  with pytest.raises(ImportError, match=r"model_step_100\.pt"):
    open_checkpoint(tmp_path)
  other = tmp_path / "other"
  for step in (9, 100):
    (other / f"checkpoint-{step}").mkdir(parents=True)
    for i in (1, 2):
      bad_file(
        other, f"checkpoint-{step}/pytorch_model-0000{i}-of-00002.bin", b"x"
      )
  with pytest.raises(ImportError, match=r"checkpoint-100/pytorch_model-00001"):
    open_checkpoint(other)
