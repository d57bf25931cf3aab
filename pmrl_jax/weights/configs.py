"""The switches of a published file as the fields of a module."""

import dataclasses
from collections.abc import Mapping
from typing import Any


def module_fields(
  config: Mapping[str, Any],
  module: type,
  *,
  fields: Mapping[str, tuple[str, Any]],
  fixed: Mapping[str, tuple[Any, Any]],
  overrides: Mapping[str, Any],
) -> dict[str, Any]:
  """Translates switches into fields.

  Args:
    config: The switches; those that are not named here are ignored.
    module: The class that the fields are for.
    fields: `{switch: (field, its value where the config is silent)}`.
    fixed: `{switch: (the supported value, its value where the config is
      silent)}`.
    overrides: Fields that win over the config.

  Returns:
    `{field: value}`.

  Raises:
    ValueError: If a switch has a value that is not supported.
    TypeError: If a field of `overrides` does not exist.
  """
  name = module.__name__
  for switch, (supported, silent) in fixed.items():
    value = config.get(switch, silent)
    if value != supported:
      came = "" if switch in config else ", which stands for no entry at all"
      raise ValueError(
        f"{name} is the published model, with {switch} = {supported!r}, got "
        f"{value!r}{came}; hand in the whole config of a published file"
      )
  known = {field.name for field in dataclasses.fields(module)}
  if unknown := sorted(set(overrides) - known):
    raise TypeError(f"{name} has no fields {unknown}, but {sorted(known)}")
  values = {
    field: config.get(switch, silent)
    for switch, (field, silent) in fields.items()
  }
  return values | dict(overrides)
