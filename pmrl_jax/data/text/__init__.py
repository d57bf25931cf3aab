"""Text as rows of numbers, `[item, length]`.

- `CharacterVocabulary`: a number for every character of an alphabet
- `SubwordTokenizer`: BERT's WordPiece, or any `tokenizer.json`
- `read_subtitles`: the text of `.srt` and `.vtt` files
"""

from pmrl_jax.data.text.characters import (
  CharacterVocabulary,
  EncodedTexts,
  normalise,
)
from pmrl_jax.data.text.subtitles import Cue, parse_subtitles, read_subtitles
from pmrl_jax.data.text.subwords import (
  EncodedTokens,
  SubwordTokenizer,
  load_tokenizer,
)

__all__ = [
  "CharacterVocabulary",
  "Cue",
  "EncodedTexts",
  "EncodedTokens",
  "SubwordTokenizer",
  "load_tokenizer",
  "normalise",
  "parse_subtitles",
  "read_subtitles",
]
