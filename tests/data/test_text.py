"""Subword tokens, and the text of subtitles."""

import concurrent.futures
import json
import pathlib
import pickle
import sys
import unicodedata

import numpy as np
import pytest
import tokenizers

from pmrl_jax.data import text

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "tokenizer.npz"

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] ! ' , . un ##aff ##able cafe dog ##s "
WORDS += "d o g a 中 文 3 ##4 5"
VOCABULARY = WORDS.split()


@pytest.fixture
def vocabulary_file(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
  return path


@pytest.fixture
def tokenizer(vocabulary_file):
  return text.SubwordTokenizer.from_vocabulary(vocabulary_file)


def word_piece(sentence):
  """BERT's tokens of a sentence by the rules, one character at a time."""
  plain = ""
  for character in unicodedata.normalize("NFD", sentence.lower()):
    kind = unicodedata.category(character)
    if character in "\t\n\r":
      plain += " "
    elif character in "\0\ufffd" or kind[0] == "C" or kind == "Mn":
      continue
    elif kind[0] == "P" or "\u4e00" <= character <= "\u9fff":
      plain += f" {character} "
    else:
      plain += character
  ids = []
  for word in plain.split():
    pieces, start = [], 0
    while start < len(word):
      prefix = "##" if start else ""
      ends = [
        end
        for end in range(len(word), start, -1)
        if prefix + word[start:end] in VOCABULARY
      ]
      if not ends or len(word) > 100:
        pieces = [VOCABULARY.index("[UNK]")]
        break
      pieces.append(VOCABULARY.index(prefix + word[start : ends[0]]))
      start = ends[0]
    ids += pieces
  return [VOCABULARY.index("[CLS]"), *ids, VOCABULARY.index("[SEP]")]


@pytest.mark.parametrize(
  "sentence",
  [
    "Unaffable dogs!",
    "  CAFÉ,\tcafe\u0301 \n 34 345 ",
    "dog's don't a.dog",
    "中文dog a\u0000\ufffddog \u200bdog",
    "dogx unaffab zzz",
    "dogs" * 26,
    "",
  ],
)
def test_tokens_are_berts(tokenizer, sentence):
  expected = word_piece(sentence)
  tokens, num_truncated, num_unknown = tokenizer.encode([sentence], length=40)
  assert tokens.dtype == np.int32 and tokens.shape == (1, 40)
  np.testing.assert_array_equal(tokens[0, : len(expected)], expected)
  assert not tokens[0, len(expected) :].any()
  assert num_truncated == 0
  assert num_unknown == expected.count(VOCABULARY.index("[UNK]"))


def test_lost_ends_and_unknown_words_are_counted(tokenizer):
  encoded = tokenizer.encode(
    ["dog dog dog dog", "dog zzz dog", "zzz dog dog zzz", "dog"], length=5
  )
  cls, sep, unk, dog = (
    VOCABULARY.index(t) for t in ("[CLS]", "[SEP]", "[UNK]", "dog")
  )
  np.testing.assert_array_equal(
    encoded.tokens,
    [
      [cls, dog, dog, dog, sep],
      [cls, dog, unk, dog, sep],
      [cls, unk, dog, dog, sep],
      [cls, dog, sep, 0, 0],
    ],
  )
  # The unknown word that was cut off with the end is not counted.
  assert encoded.num_truncated == 2 and encoded.num_unknown == 2


def test_special_tokens_in_a_text_are_themselves(tokenizer):
  tokens = tokenizer.encode(["a [MASK] dog"], length=6).tokens[0]
  assert tokens[2] == VOCABULARY.index("[MASK]")


def test_tokens_become_text_again(tokenizer):
  tokens = tokenizer.encode(["Unaffable dogs, dog!"], length=12).tokens
  assert tokenizer.decode(tokens[0]) == "unaffable dogs, dog!"


def test_cased_vocabularies_keep_case(vocabulary_file):
  cased = text.SubwordTokenizer.from_vocabulary(
    vocabulary_file, lowercase=False
  )
  assert cased.encode(["dog Dog"], length=5).num_unknown == 1


def test_the_vocabulary_file_may_have_windows_line_ends(
  tokenizer, vocabulary_file
):
  vocabulary_file.write_bytes("\r\n".join(VOCABULARY).encode())
  other = text.load_tokenizer(vocabulary_file)
  assert other.size == tokenizer.size == len(VOCABULARY)
  np.testing.assert_array_equal(
    other.encode(["dogs a"], length=7).tokens,
    tokenizer.encode(["dogs a"], length=7).tokens,
  )


def test_instances_are_pickled_and_shared_by_threads(tokenizer):
  tokenizer = pickle.loads(pickle.dumps(tokenizer))
  texts = ["dogs " * number for number in range(1, 30)]

  def encode(length):
    return tokenizer.encode(texts, length=length).tokens

  lengths = [3 + i % 7 for i in range(60)]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    results = list(pool.map(encode, lengths))
  for length, result in zip(lengths, results):
    np.testing.assert_array_equal(result, encode(length))


def byte_pairs(path, **settings):
  """A tokenizer.json without special tokens around a text."""
  merges = [("a", "b")]
  model = tokenizers.models.BPE(
    {"<pad>": 0, "a": 1, "b": 2, "ab": 3, "?": 4}, merges, **settings
  )
  library = tokenizers.Tokenizer(model)
  library.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  library.enable_truncation(2)
  library.enable_padding(length=3, pad_token="b")
  library.save(str(path))
  return path


def test_any_tokenizer_file_is_read_and_its_own_lengths_do_not_count(tmp_path):
  path = byte_pairs(tmp_path / "tokenizer.json", unk_token="?")
  tokenizer = text.SubwordTokenizer.from_file(path, padding="<pad>")
  encoded = tokenizer.encode(["aba bx", "ab"], length=4)
  np.testing.assert_array_equal(encoded.tokens, [[3, 1, 2, 4], [3, 0, 0, 0]])
  assert (encoded.num_truncated, encoded.num_unknown) == (0, 1)
  # Nothing said, the padding is what the file names.
  assert text.load_tokenizer(path).padding_id == 2


def test_texts_without_any_token_are_an_error(tmp_path):
  tokenizer = text.load_tokenizer(byte_pairs(tmp_path / "tokenizer.json"))
  assert tokenizer.unknown_id is None
  with pytest.raises(ValueError, match=r"text 1 gives no token.*where="):
    tokenizer.encode(["a", " "], length=3)


def test_errors_say_what_was_expected(tmp_path, tokenizer, vocabulary_file):
  with pytest.raises(TypeError, match="sequence of texts"):
    tokenizer.encode("dog", length=4)
  with pytest.raises(ValueError, match="has to be at least 3"):
    tokenizer.encode(["dog"], length=2)
  with pytest.raises(FileNotFoundError):
    text.load_tokenizer(tmp_path / "missing.txt")
  with pytest.raises(ValueError, match="tokenizer.json or BERT's vocab.txt"):
    text.load_tokenizer("bert-base-uncased")
  with pytest.raises(ValueError, match="read by from_vocabulary"):
    text.SubwordTokenizer.from_file(vocabulary_file)
  vocabulary_file.write_text("[PAD]\ndog\n[UNK]\n")
  with pytest.raises(ValueError, match=r"\[CLS\], \[SEP\], \[MASK\] is not"):
    text.SubwordTokenizer.from_vocabulary(vocabulary_file)
  path = byte_pairs(tmp_path / "tokenizer.json")
  with pytest.raises(ValueError, match="padding token 'c' is not in"):
    text.SubwordTokenizer.from_file(path, padding="c")


def test_without_the_library_the_error_names_the_extra(
  vocabulary_file, monkeypatch
):
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(ModuleNotFoundError, match=r"pmrl_jax\[media\]"):
    text.load_tokenizer(vocabulary_file)


SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Hello</i> &amp; <font color="#fff">welcome</font>,
a < b.

2
00:00:03,000 --> 00:00:04,000
{\\an8}42
3
01:00:05,000 --> 01:00:06,040
- Bye.
"""

VTT = """WEBVTT - title
Kind: captions

NOTE not spoken
at all

STYLE
::cue { color: red }

intro
00:01.000 --> 00:03.000 align:start position:0%
<v Ann>so <00:00:01.500><c>the dog</c>

00:03.000 --> 00:03.010
so the dog

00:03.010 --> 00:05.000
so the dog
<c.yellow>barks</c>&nbsp;twice
"""


def test_subrip_cues_lose_numbers_and_markup():
  assert text.parse_subtitles(SRT) == [
    (1.0, 2.5, ("Hello & welcome,", "a < b.")),
    (3.0, 4.0, ("42",)),
    (3605.0, 3606.04, ("- Bye.",)),
  ]


def test_a_byte_order_mark_hides_no_cue():
  cues = text.parse_subtitles("\ufeff00:00:01,000 --> 00:00:02,000\nHi\n")
  assert cues == [(1.0, 2.0, ("Hi",))]


def test_webvtt_cues_lose_comments_styles_and_names():
  assert text.parse_subtitles(VTT) == [
    (1.0, 3.0, ("so the dog",)),
    (3.0, 3.01, ("so the dog",)),
    (3.01, 5.0, ("so the dog", "barks twice")),
  ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_subtitles_are_read_as_one_text(tmp_path, encoding, line_end):
  path = tmp_path / "talk.vtt"
  path.write_bytes(VTT.replace("\n", line_end).encode(encoding))
  given = {"encoding": "utf-16"} if encoding == "utf-16" else {}
  # Rolling captions repeat a line; it is said once.
  assert text.read_subtitles(path, **given) == "so the dog barks twice"


def test_subtitles_of_a_part_are_those_shown_in_it(tmp_path):
  path = tmp_path / "film.srt"
  path.write_text(SRT)
  assert text.read_subtitles(path, start=2.5, end=3605.0) == "42"
  assert text.read_subtitles(path, start=3605.5) == "- Bye."
  assert text.read_subtitles(path, start=4.0, end=5.0) == ""


def test_subtitle_files_without_a_word_are_empty(tmp_path):
  path = tmp_path / "silent.vtt"
  for content in ("", "WEBVTT\n", "\ufeffWEBVTT\n\nNOTE nothing\n"):
    path.write_text(content, encoding="utf-8")
    assert text.read_subtitles(path) == ""


def test_files_that_are_no_subtitles_are_an_error(tmp_path):
  path = tmp_path / "talk.srt"
  path.write_text("once upon a time")
  with pytest.raises(ValueError, match="talk.srt.*got 'once upon"):
    text.read_subtitles(path)
  path.write_bytes(SRT.replace("Hello", "Olá").encode("cp1252"))
  with pytest.raises(ValueError, match='encoding=, such as "cp1252"'):
    text.read_subtitles(path)
  assert text.read_subtitles(path, encoding="cp1252").startswith("Olá &")


def test_tokens_equal_recorded_ids(vocabulary_file):
  with np.load(GOLDEN, allow_pickle=False) as file:
    golden = dict(file)
  options = json.loads(bytes(golden["cfg/json"]))
  vocabulary_file.write_text("\n".join(options["vocab"]), encoding="utf-8")
  tokenizer = text.SubwordTokenizer.from_vocabulary(vocabulary_file)
  tokens = tokenizer.encode(
    options["texts"], length=options["max_length"]
  ).tokens
  np.testing.assert_array_equal(tokens, golden["out/input_ids"])
  np.testing.assert_array_equal(
    tokens != tokenizer.padding_id, golden["out/attention_mask"]
  )
