"""Nested dicts of parameters, their paths, and lists of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax


def flat(tree: Any) -> dict[str, Any]:
  """`{"a": {"b": x}}` as `{"a/b": x}`."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in leaves
  }


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """`{"a/b": x}` as `{"a": {"b": x}}`."""
  tree: dict[str, Any] = {}
  for path, array in arrays.items():
    *parents, name = path.split("/")
    branch = tree
    for parent in parents:
      branch = branch.setdefault(parent, {})
    branch[name] = array
  return tree


def listing(items: Sequence[str], *, shown: int = 10) -> str:
  """Some of a list, a line each, and how many more there are."""
  more = len(items) - shown
  rest = f"\n  and {more} more" if more > 0 else ""
  return "".join(f"\n  {item}" for item in items[:shown]) + rest
