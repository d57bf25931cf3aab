"""Options of the compiler."""

from collections.abc import Mapping
from typing import Any

import jax


def check_compiler_options(options: Mapping[str, Any]) -> dict[str, Any] | None:
  """Checks options that `jax.jit` hands to XLA, by compiling next to nothing.

  Options of other devices than those at hand may or may not be known.

  Args:
    options: `{name: value}`, as {"xla_cpu_prefer_vector_width": 512}.

  Returns:
    The options as `jax.jit` takes them; None if there are none.

  Raises:
    ValueError: If the compiler does not know an option, or takes no such value.
  """
  if not options:
    return None
  for name, value in options.items():
    if not isinstance(value, bool | int | float | str):
      reason = f"{type(value).__name__} is none of bool, int, float and str"
    else:
      reason = _complaint(name, value)
    if reason:
      raise ValueError(
        f"the compiler of {jax.default_backend()} does not take the option "
        f"{name}={value!r}: {reason}. Correct config.compiler_options"
      )
  return dict(options)


def _complaint(name: str, value: Any) -> str:
  """What the compiler has against an option; nothing, if it takes it."""
  try:
    jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
  except jax.errors.JaxRuntimeError as error:
    message = str(error).partition("\n")[0]
    return message.removeprefix("INVALID_ARGUMENT: ").rstrip(".")
  return ""
