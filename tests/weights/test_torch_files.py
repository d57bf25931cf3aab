"""Files of PyTorch are read, where it is installed, and nothing in them run."""

import os
import pickle
import re
import sys
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.weights.files import open_checkpoint
from tests.weights.checkpoints import (
  TENSORS,
  bad_file,
  check,
  save,
  shards,
)


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
