"""Cells that are paths: they stay below the manifest's root."""

from __future__ import annotations

import os
import pathlib


def resolve(root: pathlib.Path, cell: str) -> pathlib.Path:
  """Returns the absolute path of a cell, links followed.

  Args:
    root: the folder that all paths are relative to, itself resolved.
    cell: a path relative to it.

  Returns:
    The path; whether there is a file is not looked at.

  Raises:
    ValueError: if the path is absolute, or leaves the root, by `..` or by a
      symbolic link.
  """
  if os.path.isabs(cell):
    raise ValueError(
      f"expected a path relative to {root}, got the absolute path {cell}"
    )
  try:
    path = (root / cell).resolve()
  except (OSError, RuntimeError) as error:  # links in a circle
    raise ValueError(f"the path {cell} cannot be followed: {error}") from None
  if path.is_symlink():  # the same, since Python 3.13
    raise ValueError(f"the path {cell} cannot be followed: links in a circle")
  if not path.is_relative_to(root):
    raise ValueError(
      f"the path {cell} leaves the root {root}, for {path}; give the folder "
      "that holds all files as root"
    )
  return path
