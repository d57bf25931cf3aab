"""Checkpoints are found and read, tensor by tensor; bad ones are explained."""

import json
import os
import pickle
import re
import sys
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.weights.files import open_checkpoint
from pmrl_jax.weights.safetensors_files import write_safetensors
from pmrl_jax.weights.tensors import lazy

TENSORS = {
  "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
  "a.half": np.ones((3,), jnp.bfloat16) * 1.5,
  "scalar": np.array(0.07, np.float32),
  "ids": np.arange(4)[None],
  "empty": np.zeros((0, 2), np.float16),
  "flags": np.array([True, False]),
}


def save(path, tensors=TENSORS, **metadata):
  tensors = {key: lazy(array) for key, array in tensors.items()}
  written = list(write_safetensors(path, tensors, metadata=metadata))
  assert sorted(written) == sorted(tensors)


def check(checkpoint, tensors=TENSORS):
  assert set(checkpoint.tensors) == set(tensors)
  for key, array in tensors.items():
    tensor = checkpoint.tensors[key]
    values = tensor.read()
    assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype)
    assert (values.shape, values.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(values, array)


def shards(suffix):
  keys = list(TENSORS)
  return {
    f"model-{i + 1:05}-of-00002{suffix}": {k: TENSORS[k] for k in half}
    for i, half in enumerate((keys[:3], keys[3:]))
  }


def save_index(path, files):
  weight_map = {key: name for name, half in files.items() for key in half}
  path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


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


def bad_file(tmp_path, name, content):
  path = tmp_path / name
  path.write_bytes(content)
  return path


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


# What follows is for where PyTorch is installed, as the extra `torch` does.


@pytest.fixture
def torch():
  return pytest.importorskip("torch", reason="the extra `torch` is not there")


@pytest.fixture
def tensors(torch):
  def convert(array):
    if array.dtype == jnp.bfloat16:
      return torch.tensor(array.astype(np.float32)).to(torch.bfloat16)
    return torch.tensor(array)

  return {key: convert(array) for key, array in TENSORS.items()}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
@pytest.mark.parametrize("is_archive", [True, False])
def test_files_of_pytorch_are_read(
  torch, tensors, tmp_path, suffix, is_archive
):
  torch.save(
    tensors,
    tmp_path / f"x{suffix}",
    _use_new_zipfile_serialization=is_archive,
  )
  check(open_checkpoint(tmp_path / f"x{suffix}"))
  check(open_checkpoint(tmp_path))


def test_state_dicts_inside_others_are_found(torch, tensors, tmp_path):
  path = tmp_path / "x.pt"
  torch.save({"cfg": {"layers": 3}, "model": tensors}, path)
  assert open_checkpoint(path).settings == {"layers": 3}
  for content in (
    {"state_dict": tensors, "epoch": 3},
    {"module": tensors},
    {"model": {"module": tensors}, "optimizer": {"lr": [1.0]}},
  ):
    torch.save(content, path)
    check(open_checkpoint(path))


def test_shards_and_runs_of_pytorch_are_read(torch, tensors, tmp_path):
  folder = tmp_path / "checkpoint-30"
  folder.mkdir()
  for name, half in shards(".bin").items():
    name = f"pytorch_{name}"
    torch.save({key: tensors[key] for key in half}, folder / name)
  check(open_checkpoint(tmp_path))
  (tmp_path / "run" / "ckpt").mkdir(parents=True)
  (tmp_path / "run" / "log").mkdir()
  (tmp_path / "run" / "log" / "hps.json").write_text(
    '{"model_cfg": {"audio_melbins": 64}}'
  )
  torch.save(tensors, tmp_path / "run" / "ckpt" / "model_step_7.pt")
  checkpoint = open_checkpoint(tmp_path / "run")
  check(checkpoint)
  assert checkpoint.settings == {"audio_melbins": 64}


def test_a_bad_file_of_pytorch_is_explained(torch, tensors, tmp_path):
  torch.save(tensors, tmp_path / "new.pt")
  torch.save(tensors, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
  new, old = ((tmp_path / f"{n}.pt").read_bytes() for n in ("new", "old"))
  for content in (new[:-200], new[:100], old[:-9], old[:50], b"text\n" * 50):
    path = bad_file(tmp_path, "bad.pt", content)
    with pytest.raises(ValueError, match="or it is truncated") as caught:
      open_checkpoint(path)
    assert str(path) in str(caught.value)
  with pytest.raises(ValueError, match="is empty"):
    open_checkpoint(bad_file(tmp_path, "bad.pt", b""))
  with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
    archive.writestr("a.txt", "no checkpoint")
  with pytest.raises(ValueError, match="or it is truncated"):
    open_checkpoint(tmp_path / "zip.pt")


def test_what_is_no_state_dict_is_explained(torch, tensors, tmp_path):
  path = tmp_path / "x.pt"
  for content, message in [
    ([1, 2], "should hold a state dict.*got list"),
    ({}, "got an empty dict"),
    (torch.ones(2), "should hold a state dict.*got Tensor"),
    ({"a": tensors["ids"], "b": 3.0}, "'b' should be a tensor, got float '3.0"),
    ({"a": {"b": tensors["ids"]}}, r"'a' should be a tensor, got a dict of "),
    ({3: tensors["ids"]}, "3 should be a tensor"),
    ({"model": {}}, "got an empty dict"),
    ({"a": tensors["ids"].to_sparse()}, "a is a tensor that is not read"),
  ]:
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
      open_checkpoint(path)


class Code:
  """Touches a file when it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("is_plain_pickle", [True, False])
def test_code_in_a_file_is_refused_and_not_run(
  torch, tmp_path, is_plain_pickle
):
  code = {"a": Code(tmp_path / "ran")}
  if is_plain_pickle:
    (tmp_path / "x.pt").write_bytes(pickle.dumps(code))
  else:
    torch.save(code, tmp_path / "x.pt")
  with pytest.raises(
    ValueError, match=r"weights.*it was not|nothing in it was"
  ):
    open_checkpoint(tmp_path / "x.pt")
  assert not (tmp_path / "ran").exists()
  torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
  with pytest.raises(ValueError, match=r"Linear.*Save the state dict alone"):
    open_checkpoint(tmp_path / "module.pt")


def scripted(torch, tensors):
  """A TorchScript module that has some tensors under their dotted names."""
  root = torch.nn.Module()
  for key, tensor in tensors.items():
    *parents, name = key.split(".")
    module = root
    for parent in parents:
      if parent not in dict(module.named_children()):
        module.add_module(parent, torch.nn.Module())
      module = module.get_submodule(parent)
    module.register_buffer(name, tensor)
  return torch.jit.script(root)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_explained_and_can_be_mended(
  torch, tensors, tmp_path, monkeypatch
):
  """As OpenAI's own files of CLIP are."""
  path = tmp_path / "ViT-B-32.pt"
  keys = ("a.weight", "scalar", "ids")  # "half" is a method of modules
  module = scripted(torch, {key: tensors[key] for key in keys})
  torch.jit.save(module, path)
  message = re.escape(
    f"{path} is a TorchScript archive (torch.jit.save), as OpenAI's"
  )
  with monkeypatch.context() as patched:
    patched.setattr(torch, "load", None)  # nothing of it is loaded
    patched.setattr(torch.jit, "load", None)
    with pytest.raises(ValueError, match=message) as caught:
      open_checkpoint(path)
  # The command of the message makes a file that is read.
  command = str(caught.value).partition("once: ")[2]
  monkeypatch.chdir(tmp_path)
  exec(command, {"torch": torch})
  check(open_checkpoint(tmp_path / "weights.pt"), {k: TENSORS[k] for k in keys})
  # Without PyTorch the answer is the same: not to install it.
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(ValueError, match=message):
    open_checkpoint(path)
  # Half an archive is no longer known for one.
  monkeypatch.undo()
  path.write_bytes(path.read_bytes()[:-200])
  with pytest.raises(ValueError, match="or it is truncated"):
    open_checkpoint(path)


def test_an_old_pytorch_is_refused(torch, monkeypatch, tmp_path):
  torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
  monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
  with pytest.raises(ImportError, match="2.5.1.* may run code"):
    open_checkpoint(tmp_path / "x.pt")


def test_a_file_is_mapped_anew_after_a_while(
  torch, tensors, tmp_path, monkeypatch
):
  from pmrl_jax.weights import torch_files

  monkeypatch.setattr(torch_files, "_WINDOW", 1)
  torch.save(tensors, tmp_path / "x.pt")
  check(open_checkpoint(tmp_path))


def test_pytorch_reads_what_is_written(torch, tensors, tmp_path):
  pytest.importorskip("safetensors.torch")
  from safetensors.torch import load_file

  save(tmp_path / "x.safetensors")
  loaded = load_file(tmp_path / "x.safetensors")
  assert set(loaded) == set(tensors)
  for key, tensor in tensors.items():
    assert loaded[key].dtype == tensor.dtype
    assert torch.equal(loaded[key], tensor)
