"""Converts checkpoints: of PyTorch to parameters for training, and back.

  python -m experiments.convert --from=BEATs.pt --model=beats --to=params/beats
  python -m experiments.convert --from=params/beats --to=beats.safetensors

What comes from PyTorch is a .safetensors file, or .pt, .pth or .bin (the extra
`torch`), one of several shards, a folder of these, or that of a run of the
published code. What training starts from is a folder: --config.init_from=FOLDER
of experiments.train. See docs/published_model.md.

Sizes are read from the checkpoint; --fields has what it does not tell.

Exit codes: 0 done; 2 a mistake in the flags, or a checkpoint that is damaged
or does not fit the model (one message; nothing was written); 130 interrupted.
"""

import ast
import sys
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli
from experiments.convert import from_torch, to_torch
from pmrl_jax.weights.models import MODELS

_FROM = flags.DEFINE_string("from", None, "What to convert.")
_TO = flags.DEFINE_string(
  "to", None, "A folder for parameters; a .safetensors file for PyTorch."
)
_MODEL = flags.DEFINE_enum("model", None, list(MODELS), "Whose checkpoint.")
_FIELDS = flags.DEFINE_list(
  "fields",
  [],
  "Fields of the module, as --fields=num_heads=4,image_size=336; those of "
  "pmrl's encoders with their name before them: text.num_heads=4.",
)
_UNDER = flags.DEFINE_string(
  "under",
  "",
  "Where in the whole model the parameters are, as encoders_image.",
)
_PARAM_DTYPE = flags.DEFINE_enum(
  "param_dtype", "float32", ["float32", "bfloat16"], "Of the parameters."
)
_SEED = flags.DEFINE_integer(
  "init_seed", 0, "Of the parameters that the checkpoint does not have."
)
_ALLOW_MISSING = flags.DEFINE_bool(
  "allow_missing_keys",
  False,
  "Go on when the checkpoint lacks parameters; they are random then.",
)
_ALLOW_UNEXPECTED = flags.DEFINE_bool(
  "allow_unexpected_keys",
  False,
  "Go on when the checkpoint has other keys, too.",
)
_OVERWRITE = flags.DEFINE_bool(
  "overwrite", False, "Replace what is at --to, once the new one is whole."
)


def start() -> None:
  """Runs the program from the command line."""
  if any(argument in cli.HELP for argument in sys.argv[1:]):
    _, _, listed = flags.FLAGS.module_help(__name__).strip().partition("\n")
    print(f"{(__doc__ or '').strip()}\n\nFlags:\n{listed}")
    return
  cli.run(main)


def main() -> None:
  """Converts from the flags."""
  if not _FROM.value or not _TO.value:
    raise ValueError(
      "expected --from and --to: what to convert, and where to write it"
    )
  source, target = Path(_FROM.value), Path(_TO.value)
  is_file = target.suffix == ".safetensors"
  _check_target(source, target)
  try:
    if to_torch.is_converted(source):
      if not is_file:
        raise ValueError(
          f"{source} holds converted parameters, which become a .safetensors "
          f"file; got --to={target}"
        )
      to_torch.convert(source, target)
      return
    if target.suffix:
      raise ValueError(
        f"{source} becomes a folder of parameters, and --to={target} has the "
        "suffix of a file"
      )
    from_torch.convert(
      source,
      target,
      from_torch.Options(
        model=_MODEL.value,
        fields=_fields(),
        under=_UNDER.value,
        seed=_SEED.value,
        allow_missing=_ALLOW_MISSING.value,
        allow_unexpected=_ALLOW_UNEXPECTED.value,
      ),
    )
  except ImportError as error:  # an extra that is not installed
    raise ValueError(str(error)) from error


def _fields() -> dict[str, Any]:
  """The fields of --fields and --param_dtype."""
  fields: dict[str, Any] = {"param_dtype": _PARAM_DTYPE.value}
  for item in _FIELDS.value:
    name, equals, text = item.partition("=")
    try:
      value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
      value = None if not text else text
    if not equals or not isinstance(value, bool | int | float):
      raise ValueError(
        f"expected name=number or name=True in --fields, got {item!r}"
      )
    fields[name] = value
  return fields


def _check_target(source: Path, target: Path) -> None:
  """Checks that nothing is lost by writing."""
  if not source.exists():
    raise FileNotFoundError(f"--from={source} does not exist")
  if target.exists() and not _OVERWRITE.value:
    raise ValueError(
      f"--to={target} is there already; choose another name, or replace it "
      "with --overwrite"
    )
  if target.is_dir() and any(target.iterdir()):
    if not to_torch.is_converted(target):
      raise ValueError(
        f"--to={target} holds something else than converted parameters, and "
        "is not replaced; choose another name"
      )
  if target.resolve() == source.resolve():
    raise ValueError(f"--from and --to are the same, {source}")
  for path in target.parents:
    if path.is_file():
      raise ValueError(f"--to={target} cannot be there: {path} is a file")
