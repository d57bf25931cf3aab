"""Annotation files -> tables: every form, nothing lost, nothing invented."""

import json
import pathlib

import av
import numpy as np
import pytest

from pmrl_jax.data.datasets.benchmarks import (
  BENCHMARKS,
  benchmark_manifest,
  cells,
)
from pmrl_jax.data.datasets.benchmarks.media import MediaFolder

FIXTURES = pathlib.Path(__file__).parent / "annotations"
DIDEMO_IDS = [
  "11111111@N00_2222222222_0123456789",
  "33333333@N05_4444444444_abcdefabcd",
  "55555555@N02_6666666666_fedcbafedc",
]


def read(name, split, file, **options):
  path = FIXTURES / name / file
  return benchmark_manifest(name, split, annotations=path, **options)


def column(manifest, name):
  return manifest.table.column(name).to_pylist()


def noted(manifest, *words):
  """Whether one note has all of the words."""
  return any(all(word in note for word in words) for note in manifest.notes)


def files(folder, *names):
  folder.mkdir(parents=True, exist_ok=True)
  for name in names:
    (folder / name).write_bytes(b"content")
  return folder


def written(tmp_path, content, name="descs_ret_test.json"):
  path = tmp_path / name
  path.write_text(
    content if isinstance(content, str) else json.dumps(content), "utf-8"
  )
  return path


# Forms.


@pytest.mark.parametrize(
  "name,split,file,ids,captions",
  [
    (
      "msrvtt",
      "test",
      "MSRVTT_JSFUSION_test.csv",
      ["video7", "video12"],
      [["a heron lands on a pier"], ['someone folds a "boat", of paper']],
    ),
    (
      "msrvtt",
      "official_train",
      "MSRVTT_data.json",
      ["video0", "video1"],
      [
        ["a baker kneads dough"],
        ["a lamp is switched on", "light fills a room"],
      ],
    ),
    (
      "didemo",
      "test",
      "test_data.json",
      [DIDEMO_IDS[0] + ".mov", DIDEMO_IDS[1] + ".mp4"],
      [["a kite climbs. the string slips"], ["a child jumps off a wall"]],
    ),
    (
      "activitynet",
      "test",
      "val_1.json",
      ["v_AAAAAAAAAAA", "v_BBBBBBBBBBB"],
      [
        ["A rower sets off. The boat crosses the lake."],
        ["A cook peels onions and weeps."],
      ],
    ),
    (
      "activitynet",
      "test",
      "descs_ret_test.json",
      ["v_AAAAAAAAAAA", "v_BBBBBBBBBBB"],
      [
        ["A rower sets off.   The boat crosses the lake."],
        ["A cook peels onions and weeps."],
      ],
    ),
    (
      "vatex",
      "train",
      "vatex_training_v1.0.json",
      ["ab-_EFGhijk_000004_000014", "zyxwvutsrqp_000100_000110"],
      [["A potter turns a bowl.", "Hands shape wet clay."], ["A dog digs."]],
    ),
    (
      "audiocaps",
      "test",
      "test.csv",
      ["mnopqrstuvw_30.000_40.000", "-bcdefghij__0.000_10.000"],
      [
        ["Rain falls on tin", "Rain drums, then thunder"],
        ["A kettle whistles, a cup is set down"],
      ],
    ),
    (
      "clotho",
      "test",
      "clotho_captions_evaluation.csv",
      ["Old Gate (two hinges).wav", "creek.wav"],
      [
        [
          "A gate creaks.",
          "Hinges squeal as a gate swings.",
          "Metal creaks, then a thud.",
          "A gate is opened.",
          "An old gate moves.",
        ],
        [
          "Water runs over stones.",
          "A creek murmurs.",
          "Water, and a far bird.",
          "A stream flows.",
          "Water trickles.",
        ],
      ],
    ),
  ],
)
def test_every_form_gives_the_file_s_ids_and_all_captions(
  name, split, file, ids, captions
):
  manifest = read(name, split, file)
  assert column(manifest, "id") == ids
  assert column(manifest, "text") == captions
  assert column(manifest, "split") == [split] * len(ids)
  assert manifest.kinds["text"] == "text"


def test_vast_has_all_its_captions_and_one_source_per_film():
  manifest = read("vast", "train", "annotations150k.json")
  assert column(manifest, "id") == ["kkkkkkkkkkk.4", "kkkkkkkkkkk.9"]
  assert column(manifest, "source") == ["kkkkkkkkkkk"] * 2
  assert column(manifest, "vision_caption") == [
    ["a man with a harp", "hands on strings"],
    ["a harp"],
  ]
  assert column(manifest, "audio_caption") == [
    ["single notes", "a man speaks"],
    None,
  ]
  assert column(manifest, "subtitle") == [["This one is flat."], None]


def test_what_is_not_read_is_named():
  manifest = read("vast", "train", "annotations150k.json")
  assert noted(manifest, "not read: 'clip_span', in 2 entries")
  assert noted(manifest, "not read: 'video_id', in 2 entries")
  assert "clip_span" not in manifest.table.column_names


@pytest.mark.parametrize(
  "item,name,caption",
  [
    ({"id": "e", "image": "d", "caption": "x"}, "d", "x"),
    ({"image": "d", "image_id": "c", "vast_cap": "y"}, "c", "y"),
    ({"image_id": "c", "video_id": "b", "caption": "x", "desc": "w"}, "b", "w"),
    ({"video_id": "b", "clip_id": "a", "vast_cap": "y", "desc": "w"}, "a", "w"),
    ({"id": 17, "vast_cap": "y", "caption": ["x", "z"]}, "17", ["x", "z"]),
  ],
)
def test_ids_and_captions_are_taken_in_the_published_order(
  tmp_path, item, name, caption
):
  path = written(tmp_path, [item])
  manifest = benchmark_manifest("didemo", "test", annotations=path)
  assert column(manifest, "id") == [name]
  texts = caption if isinstance(caption, list) else [caption]
  assert column(manifest, "text") == [texts]
  # All but the id and the caption.
  unread = len(item) - 2
  assert sum("not read" in note for note in manifest.notes) == unread


def test_clips_of_one_film_share_their_source():
  data = read("msrvtt", "official_train", "MSRVTT_data.json")
  assert column(data, "source") == ["aaaaaaaaaaa"] * 2
  vatex = read("vatex", "test", "descs_ret_test.json")
  assert column(vatex, "source") == ["ab-_EFGhijk"] * 2
  audiocaps = read("audiocaps", "test", "descs_ret_test.json")
  assert column(audiocaps, "source") == ["mnopqrstuvw", "-bcdefghij_"]
  for name in ("didemo", "activitynet", "msrvtt"):
    manifest = read(name, "test", "descs_ret_test.json")
    assert "source" not in manifest.table.column_names


def test_audiocaps_ids_are_the_same_in_both_forms():
  published = read("audiocaps", "test", "descs_ret_test.json")
  official = read("audiocaps", "test", "test.csv")
  assert column(published, "id") == column(official, "id")


# Absent texts.


def test_empty_texts_are_absent_and_counted():
  manifest = read("msrvtt", "test", "descs_ret_test.json")
  assert manifest.table.num_rows == 4
  assert column(manifest, "text")[2] is None
  assert noted(manifest, "text: 3 of 4 rows", "1 empty texts")
  # Kept as they are, white space around them too.
  assert column(manifest, "subtitle") == [
    [" Look, over there."],
    None,
    None,
    ["Now the other side."],
  ]
  assert noted(
    manifest, "subtitle: 2 of 4", "1 empty texts, 1 of white space only"
  )


def test_an_empty_caption_among_others_is_dropped_alone():
  manifest = read("vatex", "test", "descs_ret_test.json")
  assert [len(texts) for texts in column(manifest, "text")] == [2, 1]
  assert noted(manifest, "text: 2 of 2", "1 to 2 each", "1 empty texts")


def test_captions_that_repeat_are_kept_and_counted_across_rows():
  audiocaps = read("audiocaps", "test", "descs_ret_test.json")
  assert column(audiocaps, "text")[0].count("Rain falls on tin") == 2
  assert not noted(audiocaps, "belong to several rows")
  msrvtt = read("msrvtt", "test", "descs_ret_test.json")
  assert noted(msrvtt, "1 captions belong to several rows")


# Rosters.


def test_a_number_of_rows_that_is_not_the_usual_is_noted():
  manifest = read("msrvtt", "test", "descs_ret_test.json")
  assert manifest.expected == 1000
  assert noted(manifest, "4 rows where test has 1,000 elsewhere")


def test_ids_known_as_unreadable_are_marked_and_stay():
  manifest = read("didemo", "test", "descs_ret_test.json")
  assert column(manifest, "id") == DIDEMO_IDS
  assert manifest.corrupted == (DIDEMO_IDS[1],)
  assert noted(manifest, "2 unreadable ids, 1 of them", DIDEMO_IDS[1])


def test_a_roster_picks_and_orders_the_videos():
  manifest = benchmark_manifest(
    "msrvtt", "train", annotations=FIXTURES / "msrvtt"
  )
  assert column(manifest, "id") == ["video2", "video0"]
  assert column(manifest, "source") == ["bbbbbbbbbbb", "aaaaaaaaaaa"]


def test_a_folder_is_searched_by_name_and_the_choice_is_noted():
  manifest = benchmark_manifest(
    "msrvtt", "test", annotations=FIXTURES / "msrvtt"
  )
  assert column(manifest, "audio_caption") == [
    ["wings beat, water laps"],
    None,
  ]
  assert noted(manifest, "audio_captions.json, not", "'descs_ret_test.json'")


# Media.


def test_media_are_found_whatever_the_id_looks_like(tmp_path):
  videos = files(
    tmp_path / "videos",
    DIDEMO_IDS[0] + ".webm",
    DIDEMO_IDS[2] + ".MP4",
    "other.mp4",
  )
  sounds = files(
    tmp_path / "sounds", DIDEMO_IDS[0] + ".mp3", DIDEMO_IDS[1] + ".flac"
  )
  manifest = read(
    "didemo", "test", "descs_ret_test.json", media=videos, audio=sounds
  )
  assert manifest.root == tmp_path.resolve()
  assert manifest.kinds == {"video": "video", "audio": "audio"} | {
    "text": "text"
  }
  assert column(manifest, "video") == [
    f"videos/{DIDEMO_IDS[0]}.webm",
    None,
    f"videos/{DIDEMO_IDS[2]}.MP4",
  ]
  assert column(manifest, "audio") == [
    f"sounds/{DIDEMO_IDS[0]}.mp3",
    f"sounds/{DIDEMO_IDS[1]}.flac",
    None,
  ]
  assert noted(manifest, "video: 2 of 3", f"absent: '{DIDEMO_IDS[1]}'")
  for path in column(manifest, "video") + column(manifest, "audio"):
    assert path is None or (manifest.root / path).is_file()


def test_an_id_with_extension_and_spaces_finds_its_file(tmp_path):
  ids = ["Old Gate (two hinges).wav", "creek.wav"]
  sounds = files(tmp_path / "exact", *ids, "creek.mp3")
  manifest = read("clotho", "test", "descs_cap_test.json", media=sounds)
  assert column(manifest, "audio") == ids
  assert noted(manifest, "several files fit 1 ids", "'creek.mp3'")
  assert "video" not in manifest.table.column_names
  # Converted copies keep the stem.
  sounds = files(tmp_path / "other", "creek.flac")
  manifest = read("clotho", "test", "descs_cap_test.json", media=sounds)
  assert column(manifest, "audio") == [None, "creek.flac"]


def test_extensions_are_tried_in_a_fixed_order(tmp_path):
  order = [".mp4", ".avi", ".webm", ".mkv"]
  for first in range(len(order)):
    folder = files(
      tmp_path / str(first), *(f"a.b{end}" for end in reversed(order[first:]))
    )
    found = MediaFolder(folder).find(["a.b"], order)
    assert found.path.name == "a.b" + order[first]
    assert found.others == tuple("a.b" + end for end in order[first + 1 :])


def test_the_very_name_of_the_id_comes_before_other_extensions(tmp_path):
  first, second = DIDEMO_IDS[0] + ".mov", DIDEMO_IDS[1] + ".avi"
  videos = files(tmp_path, first, DIDEMO_IDS[0] + ".mp4", second)
  manifest = read(
    "didemo", "test", "test_data.json", media=videos, audio=videos.parent
  )
  assert [pathlib.Path(name).name for name in column(manifest, "video")] == [
    first,
    second,
  ]


def test_a_folder_that_is_a_link_is_replaced_by_what_it_links_to(tmp_path):
  real_folder = files(tmp_path / "disk" / "sounds", "creek.wav")
  link = tmp_path / "data"
  link.symlink_to(real_folder, target_is_directory=True)
  manifest = read("clotho", "test", "descs_cap_test.json", media=link)
  assert manifest.root == real_folder.resolve()
  assert not noted(manifest, "symbolic links")


def test_audiocaps_clips_are_found_under_their_usual_names(tmp_path):
  for number, stems in enumerate(
    [
      ("mnopqrstuvw_30.000_40.000", "-bcdefghij__0.000_10.000"),
      ("mnopqrstuvw_30", "-bcdefghij__0"),
      ("mnopqrstuvw", "-bcdefghij_"),
      ("Ymnopqrstuvw", "Y-bcdefghij_"),
    ]
  ):
    names = [stem + ".wav" for stem in stems]
    sounds = files(tmp_path / str(number), *names)
    manifest = read("audiocaps", "test", "test.csv", media=sounds)
    assert column(manifest, "audio") == names


def test_the_sound_track_stands_in_where_there_is_no_sound_file(
  tmp_path, monkeypatch
):
  folder = files(
    tmp_path,
    *("video7.mp4", "video7.mp3"),  # a sound file beside the video
    *("video12.mkv", "video3.mp4", "video40.mp4"),
  )
  sound = {"video12.mkv": True, "video3.mp4": False, "video40.mp4": None}
  monkeypatch.setattr(cells, "has_sound", lambda path: sound[path.name])
  for audio in (None, folder):
    manifest = read(
      "msrvtt", "test", "descs_ret_test.json", media=folder, audio=audio
    )
    assert column(manifest, "audio") == [
      "video7.mp3",
      "video12.mkv",
      None,
      None,
    ]
    assert noted(
      manifest, "sound track of 1 videos", "1 have none", "1 could not be read"
    )


def test_sound_tracks_are_told_from_the_header(tmp_path):
  for name in ("video7", "video12"):
    with av.open(str(tmp_path / f"{name}.mp4"), "w") as container:
      picture = container.add_stream("mpeg4", rate=5)
      picture.width = picture.height = 16
      frames = {picture: av.VideoFrame(16, 16, "yuv420p")}
      if name == "video7":
        sound = container.add_stream("aac", rate=16000)
        sound.layout = "mono"
        silence = np.zeros((1, 2048), np.float32)
        frames[sound] = av.AudioFrame.from_ndarray(silence, "fltp", "mono")
        frames[sound].sample_rate = 16000
      for stream, frame in frames.items():
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
  (tmp_path / "video3.mp4").write_text("not a video")
  manifest = read("msrvtt", "test", "descs_ret_test.json", media=tmp_path)
  assert column(manifest, "audio") == ["video7.mp4", None, None, None]
  assert noted(manifest, "1 have none", "1 could not be read")


def test_links_out_of_the_folder_are_noted(tmp_path):
  elsewhere = files(tmp_path / "elsewhere", "creek.wav")
  folder = files(tmp_path / "sounds", "Old Gate (two hinges).wav")
  (folder / "creek.wav").symlink_to(elsewhere / "creek.wav")
  manifest = read("clotho", "test", "descs_cap_test.json", media=folder)
  assert noted(manifest, "1 files are symbolic links out of", "'creek.wav'")


def test_a_folder_without_any_of_the_files_is_an_error(tmp_path):
  folder = files(tmp_path / "wrong", "a.mp4")
  with pytest.raises(ValueError, match=r"wrong \(1 files\).*'video7.mp4'"):
    read("msrvtt", "test", "descs_ret_test.json", media=folder)
  with pytest.raises(ValueError, match="expected a folder.*nowhere"):
    read("msrvtt", "test", "descs_ret_test.json", media=tmp_path / "nowhere")


# Errors.


@pytest.mark.parametrize(
  "content,message",
  [
    ([{"video_id": "a", "desc": "x"}] * 2, "several rows for 'a'"),
    ([{"video_id": "../a", "desc": "x"}], r"names as ids.*'\.\./a'"),
    ([{"video_id": "a", "desc": 3}], "text or a list of texts in 'desc'.*3"),
    ([{"video_id": "a", "desc": ["x", None]}], "list of texts in 'desc'"),
    ([{"video_id": None, "desc": "x"}], "'video_id' of row 0, got None"),
    (
      [{"video_id": "a", "desc": "x"}, {"name": "b", "desc": "x"}],
      r"one of \['clip_id.*in row 1.*\['name', 'desc'\]",
    ),
    ([{"video_id": "a", "desc": "x"}, "b"], "an object as row 1, got 'b'"),
    (
      [{"video": "a", "description": "x"}, {"video": "b"}],
      "not of that form.*description",
    ),
    ([{"name": "a", "text": "x"}], r"to hold a JSON list.*\['name', 'text'\]"),
    ({"a": 1}, "got an object with 'a'"),
    ([], r"expected .* to hold .*; got \[\]"),
    ('[{"video_id": "a", "de', "is not JSON .line 1.*broke off"),
  ],
)
def test_a_bad_file_is_an_error_that_says_where(tmp_path, content, message):
  path = written(tmp_path, content)
  with pytest.raises(ValueError, match=message) as raised:
    benchmark_manifest("didemo", "test", annotations=path)
  assert str(path) in str(raised.value)


def test_a_bad_csv_is_an_error_that_says_where(tmp_path):
  header = "audiocap_id,youtube_id,start_time,caption\n"
  for line, message in [
    ("1,mnopqrstuvw,30,Rain, then thunder\n", "4 fields in line 2.*got 5"),
    ("1,mnopqrstuvw,soon,Rain\n", "seconds as start_time.*'soon'"),
  ]:
    path = written(tmp_path, header + line, "test.csv")
    with pytest.raises(ValueError, match=message):
      benchmark_manifest("audiocaps", "test", annotations=path)
  path = tmp_path / "latin.csv"
  path.write_bytes(header.encode() + b"1,mnopqrstuvw,30,Caf\xe9\n")
  with pytest.raises(ValueError, match="UTF-8 in .*latin.csv, got byte 0xe9"):
    benchmark_manifest("audiocaps", "test", annotations=path)


def test_unknown_names_and_missing_files_list_what_there_is(tmp_path):
  with pytest.raises(ValueError, match="'msrvtt'.*got 'msvd'"):
    benchmark_manifest("msvd", "test", annotations=tmp_path)
  with pytest.raises(ValueError, match="'val_2'.*got 'val_3'"):
    benchmark_manifest("activitynet", "val_3", annotations=tmp_path)
  with pytest.raises(FileNotFoundError, match="descs_ret_test.json.*nothing"):
    benchmark_manifest("didemo", "test", annotations=tmp_path)
  with pytest.raises(FileNotFoundError, match="or its folder, got .*gone"):
    benchmark_manifest("didemo", "test", annotations=tmp_path / "gone")
  with pytest.raises(ValueError, match="ends in .json or .csv"):
    benchmark_manifest(
      "didemo", "test", annotations=FIXTURES / "didemo" / "corrupted"
    )


def test_a_file_of_all_splits_needs_to_know_which(tmp_path):
  data = FIXTURES / "msrvtt" / "MSRVTT_data.json"
  with pytest.raises(ValueError, match="cannot tell.*JSFUSION_test.csv"):
    benchmark_manifest("msrvtt", "test", annotations=data)
  alone = written(tmp_path, data.read_text("utf-8"), data.name)
  with pytest.raises(FileNotFoundError, match="MSRVTT_train.9k.csv"):
    benchmark_manifest("msrvtt", "train", annotations=alone)
  written(tmp_path, "video_id\nvideo0\nvideo9\n", "MSRVTT_train.9k.csv")
  with pytest.raises(ValueError, match="lists 'video9', not in"):
    benchmark_manifest("msrvtt", "train", annotations=alone)


def test_every_split_with_a_file_has_a_number_of_rows():
  for benchmark in BENCHMARKS.values():
    assert set(benchmark.expected) == set(benchmark.files)
    assert set(benchmark.rosters) <= set(benchmark.files)


# The real files.


@pytest.fixture
def real(shared):
  """`real("clotho", "test", file)` is the manifest of a real file."""

  def read(name, split, file):
    annotations = shared("data/annotations") / file
    return benchmark_manifest(name, split, annotations=annotations)

  return read


@pytest.mark.shared
@pytest.mark.parametrize(
  "name,file,num_rows,num_captions,present",
  [
    ("msrvtt", "msrvtt/descs_ret_test.json", 1000, 1, {"subtitle": 762}),
    (
      "msrvtt",
      "msrvtt/descs_ret_test_audcap_with_audio_captions.json",
      1000,
      1,
      {"subtitle": 762, "audio_caption": 884},
    ),
    ("didemo", "didemo/descs_ret_test.json", 1003, 1, {}),
    ("activitynet", "activitynet/descs_ret_test.json", 4917, 1, {}),
    # 730 subtitles are empty, 29 more are white space.
    ("vatex", "vatex/descs_ret_test.json", 1500, 10, {"subtitle": 741}),
    ("audiocaps", "audiocaps/descs_ret_test.json", 729, 5, {}),
    ("audiocaps", "audiocaps/audiocaps_test.csv", 975, 5, {}),
    ("clotho", "clothov2/descs_cap_test.json", 1045, 5, {}),
    ("clotho", "clothov2/clotho_captions_evaluation.csv", 1045, 5, {}),
  ],
)
def test_real_files_are_read_in_full(
  real, name, file, num_rows, num_captions, present
):
  manifest = real(name, "test", file)
  assert manifest.table.num_rows == num_rows
  assert len(set(column(manifest, "id"))) == num_rows
  captions = column(manifest, "text")
  assert {len(texts) for texts in captions} == {num_captions}
  assert set(manifest.kinds) == {"text", *present}
  for modality, count in present.items():
    texts = column(manifest, modality)
    assert num_rows - texts.count(None) == count
  assert not noted(manifest, "not read")


@pytest.mark.shared
def test_real_empty_subtitles_are_counted(real):
  msrvtt = real("msrvtt", "test", "msrvtt/descs_ret_test.json")
  assert noted(msrvtt, "238 empty texts, 0 of white space only")
  vatex = real("vatex", "test", "vatex/descs_ret_test.json")
  assert noted(vatex, "730 empty texts, 29 of white space only")


@pytest.mark.shared
def test_real_didemo_is_complete_and_its_corrupted_list_is_reported(real):
  manifest = real("didemo", "test", "didemo")
  assert manifest.table.num_rows == manifest.expected == 1003
  assert all("@" in item for item in column(manifest, "id"))
  # The list names three videos, none of which this file has.
  assert noted(manifest, "lists 3 unreadable ids, 0 of them in these rows")
  assert manifest.corrupted == ()


@pytest.mark.shared
def test_real_forms_agree_on_the_items_they_share(real):
  published = real("audiocaps", "test", "audiocaps/descs_ret_test.json")
  assert noted(published, "729 rows where test has 975 elsewhere")
  official = real("audiocaps", "test", "audiocaps/audiocaps_test.csv")
  captions = dict(zip(column(official, "id"), column(official, "text")))
  for item, texts in zip(column(published, "id"), column(published, "text")):
    assert sorted(captions[item]) == sorted(texts)
  published = real("clotho", "test", "clothov2/descs_cap_test.json")
  official = real("clotho", "test", "clothov2/clotho_captions_evaluation.csv")
  assert published.table == official.table
  ids = column(published, "id")
  assert all(item.endswith(".wav") for item in ids)
  assert sum(" " in item for item in ids) == 639
