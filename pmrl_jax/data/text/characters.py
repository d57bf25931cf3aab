"""Text as fixed-length rows of character numbers."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class EncodedTexts(NamedTuple):
  """Texts as rows of character ids."""

  characters: np.ndarray  # int32 [item, length], zeros after the end
  num_truncated: int  # how many were longer and lost their end
  num_unknown: int  # how many characters are not in the alphabet


@dataclasses.dataclass(frozen=True)
class CharacterVocabulary:
  """Numbers for the characters of an explicit alphabet.

  0 is padding, 1 any character outside of the alphabet, and 2 upwards the
  alphabet in its order. Texts are stripped and normalised (lower case, then
  Unicode NFC) before they are looked up.

  >>> vocabulary = CharacterVocabulary("abc")
  >>> vocabulary.encode(["Cab!", "b"], length=5).characters
  array([[4, 2, 3, 1, 0],
         [3, 0, 0, 0, 0]], dtype=int32)
  """

  alphabet: str

  def __post_init__(self):
    """Checks the alphabet.

    Raises:
      ValueError: if a character occurs twice or is not its own normal form.
    """
    if len(set(self.alphabet)) != len(self.alphabet):
      raise ValueError(f"{self.alphabet!r} holds a character twice")
    if normalise(self.alphabet) != self.alphabet:
      raise ValueError(
        f"expected an alphabet in lower case and NFC, got {self.alphabet!r}; "
        f"use {normalise(self.alphabet)!r}"
      )

  @classmethod
  def from_texts(cls, texts: Iterable[str]) -> CharacterVocabulary:
    """Returns the vocabulary of the characters that occur in the texts."""
    return cls("".join(sorted(set().union(*map(normalise, texts)))))

  @property
  def size(self) -> int:
    """The number of ids, padding and unknown included."""
    return len(self.alphabet) + 2

  def encode(self, texts: Sequence[str], *, length: int) -> EncodedTexts:
    """Turns texts into rows of ids.

    Args:
      texts: the texts; none may be empty.
      length: the number of characters in a row; longer texts lose their end.

    Returns:
      The ids, and how many texts and characters were lost.

    Raises:
      ValueError: if a text is empty.
    """
    ids = {character: 2 + i for i, character in enumerate(self.alphabet)}
    characters = np.zeros((len(texts), length), np.int32)
    num_truncated = 0
    for item, text in enumerate(texts):
      normalised = normalise(text).strip()
      if not normalised:
        raise ValueError(
          f"text {item} is empty; mark the text of this instance as absent "
          "(where=) or leave the instance out"
        )
      row = [ids.get(character, 1) for character in normalised[:length]]
      characters[item, : len(row)] = row
      num_truncated += len(normalised) > length
    return EncodedTexts(
      characters, num_truncated, int(np.count_nonzero(characters == 1))
    )

  def decode(self, characters: np.ndarray) -> str:
    """Turns one row of ids back into a text; unknown ones become U+FFFD."""
    symbols = "\0\ufffd" + self.alphabet
    return "".join(symbols[i] for i in characters if i)


def normalise(text: str) -> str:
  """Returns the text in lower case and Unicode NFC."""
  return unicodedata.normalize("NFC", text.lower())
