"""Text as fixed-length rows of subword numbers, by the `tokenizers` library."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
  import tokenizers

# What BERT calls its special tokens.
_BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class EncodedTokens(NamedTuple):
  """Texts as rows of token ids."""

  tokens: np.ndarray  # int32 [item, length], padding after the end
  num_truncated: int  # how many texts were longer and lost their end
  num_unknown: int  # how many tokens of the rows stand for unknown text


class SubwordTokenizer:
  """Numbers for words and parts of words.

  Nothing is ever downloaded: the vocabulary is a file. An instance may be
  pickled, and used by several threads at once.
  """

  def __init__(
    self,
    tokenizer: tokenizers.Tokenizer,
    *,
    padding: str,
    unknown: str | None = None,
  ):
    """Wraps a tokenizer; `from_vocabulary` and `from_file` make one.

    Args:
      tokenizer: the library's; its own padding and truncation are turned off.
      padding: the token that fills a row, such as "[PAD]".
      unknown: the token that stands for unknown text; None if none does.

    Raises:
      ValueError: if a token is not in the vocabulary.
    """
    tokenizer.no_padding()
    tokenizer.no_truncation()
    self._tokenizer = tokenizer
    self.padding_id = _token_id(tokenizer, "padding", padding)
    self.unknown_id = (
      None if unknown is None else _token_id(tokenizer, "unknown", unknown)
    )

  @classmethod
  def from_vocabulary(
    cls, path: str | os.PathLike[str], *, lowercase: bool = True
  ) -> SubwordTokenizer:
    """Reads a vocabulary of BERT's WordPiece.

    Texts lose control characters, case and accents, words are cut at
    punctuation and around Chinese characters, then into the longest parts that
    the vocabulary has; [CLS] comes before and [SEP] behind. With the file of
    bert-base-uncased the ids are that model's.

    Args:
      path: `vocab.txt`: a token per line, its id the line's number.
      lowercase: False for the vocabulary of a cased model.

    Returns:
      The tokenizer.

    Raises:
      ValueError: if the file lacks one of BERT's special tokens.

    Reference: J. Devlin et al., "BERT: Pre-training of Deep Bidirectional
    Transformers for Language Understanding", arXiv 1810.04805.
    """
    library = _library()
    # Not splitlines(): a vocabulary holds rarer line separators as tokens.
    lines = pathlib.Path(path).read_text(encoding="utf-8").split("\n")
    vocabulary = {token: i for i, token in enumerate(lines) if token}
    missing = [token for token in _BERT_SPECIAL if token not in vocabulary]
    if missing:
      raise ValueError(
        f"expected {path} to hold BERT's vocabulary, one token per line, but "
        f"{', '.join(missing)} is not in it; a tokenizer.json is read by "
        "from_file"
      )
    tokenizer = library.Tokenizer(
      library.models.WordPiece(vocabulary, unk_token="[UNK]")
    )
    tokenizer.normalizer = library.normalizers.BertNormalizer(
      lowercase=lowercase
    )
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = library.processors.BertProcessing(
      ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    tokenizer.decoder = library.decoders.WordPiece()
    # As special tokens they are found in a text before it is normalised.
    tokenizer.add_special_tokens(list(_BERT_SPECIAL))
    return cls(tokenizer, padding="[PAD]", unknown="[UNK]")

  @classmethod
  def from_file(
    cls,
    path: str | os.PathLike[str],
    *,
    padding: str | None = None,
    unknown: str | None = None,
  ) -> SubwordTokenizer:
    """Reads a `tokenizer.json` of the tokenizers library.

    Args:
      path: the file.
      padding: the token that fills a row; None takes what the file names, or
        else "[PAD]" or "<pad>".
      unknown: the token that stands for unknown text; None takes what the
        file's model names, if it does.

    Returns:
      The tokenizer.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is another one, or no padding token is found.
    """
    library = _library()
    content = pathlib.Path(path).read_text(encoding="utf-8")
    try:
      tokenizer = library.Tokenizer.from_str(content)
    except Exception as error:  # The library raises no narrower type.
      raise ValueError(
        f"{path} is no tokenizer.json of the tokenizers library: {error}; a "
        "vocab.txt is read by from_vocabulary"
      ) from error
    if padding is None:
      named = (tokenizer.padding or {}).get("pad_token")
      candidates = [named] if named else ["[PAD]", "<pad>"]
      known = [c for c in candidates if tokenizer.token_to_id(c) is not None]
      if not known:
        raise ValueError(
          f"{path} names no padding token; pass padding= the token that the "
          "model was trained with"
        )
      padding = known[0]
    if unknown is None:
      unknown = getattr(tokenizer.model, "unk_token", None)
    return cls(tokenizer, padding=padding, unknown=unknown)

  @property
  def size(self) -> int:
    """The number of ids, special tokens included."""
    return self._tokenizer.get_vocab_size()

  def encode(self, texts: Sequence[str], *, length: int) -> EncodedTokens:
    """Turns texts into rows of token ids.

    Args:
      texts: the texts. An empty one becomes the special tokens alone.
      length: the number of tokens in a row, special ones included. Longer
        texts lose their end, but no special token.

    Returns:
      The ids, and how many texts and tokens were lost.

    Raises:
      TypeError: if the texts are a single one.
      ValueError: if no text fits into the length, or a text gives no token.
    """
    if isinstance(texts, str):
      raise TypeError("expected a sequence of texts, got a single one: [text]")
    room = length - self._tokenizer.num_special_tokens_to_add(False)
    if room < 1:
      raise ValueError(
        f"a length of {length} leaves no room beside the special tokens; it "
        f"has to be at least {length - room + 1}"
      )
    tokens = np.full((len(texts), length), self.padding_id, np.int32)
    num_truncated = num_unknown = 0
    for item, text in enumerate(texts):
      # In these steps nothing of the tokenizer's state changes.
      encoding = self._tokenizer.encode(text, add_special_tokens=False)
      num_truncated += len(encoding) > room
      encoding.truncate(room)
      num_unknown += sum(token == self.unknown_id for token in encoding.ids)
      row = self._tokenizer.post_process(encoding).ids
      if not row:
        raise ValueError(
          f"text {item} gives no token; mark the text of this instance as "
          "absent (where=) or leave the instance out"
        )
      tokens[item, : len(row)] = row
    return EncodedTokens(tokens, num_truncated, num_unknown)

  def decode(self, tokens: np.ndarray) -> str:
    """Turns one row of ids back into a text, without special tokens."""
    return self._tokenizer.decode(
      [int(token) for token in tokens if token != self.padding_id]
    )


def load_tokenizer(path: str | os.PathLike[str]) -> SubwordTokenizer:
  """Reads a tokenizer: a `tokenizer.json`, or BERT's `vocab.txt`.

  Args:
    path: the file; its ending, `.json` or `.txt`, tells which of the two.

  Returns:
    The tokenizer.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the ending or the content is another one.
  """
  suffix = pathlib.Path(path).suffix
  if suffix == ".json":
    return SubwordTokenizer.from_file(path)
  if suffix == ".txt":
    return SubwordTokenizer.from_vocabulary(path)
  raise ValueError(
    f"expected a tokenizer.json or BERT's vocab.txt, got {path}; the model's "
    "publisher offers one of them"
  )


def _token_id(tokenizer: tokenizers.Tokenizer, role: str, token: str) -> int:
  number = tokenizer.token_to_id(token)
  if number is None:
    raise ValueError(
      f"the {role} token {token!r} is not in the vocabulary; pass {role}= the "
      "one that is"
    )
  return number


def _library():
  try:
    import tokenizers
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      "subword tokenizers need the package tokenizers: pip install "
      "'pmrl_jax[media]'"
    ) from error
  return tokenizers
