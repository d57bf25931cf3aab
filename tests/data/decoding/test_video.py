"""Frames of videos: exactly those that decoding everything gives, or errors."""

import fractions
import pickle
import shutil
import sys
import types

import av
import numpy as np
import pytest
from PIL import Image

from pmrl_jax.data.decoding import (
  MediaError,
  MissingStreamError,
  frame_indices,
  probe,
  read_frames,
  read_video,
  video,
)
from pmrl_jax.data.decoding.container import open_container, require_av
from pmrl_jax.data.decoding.packets import (
  PacketTable,
  Run,
  plan,
  read_packets,
)

X264 = "x264-params"
X265 = {"x265-params": "keyint=12:bframes=4:open-gop=1:log-level=none"}
OPEN_GROUPS = {
  X264: "open-gop=1:keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0"
}
INDEX_FIRST = {"container": {"movflags": "faststart"}}
UNEVEN = np.cumsum(np.random.default_rng(3).integers(20, 90, 40))

# Files whose packets tell their frames.
TOLD = {
  "b_frames.mp4": ("libx264", {}),
  "b_frames.mkv": ("libx264", {}),
  "odd_size.mp4": ("libx264", {"size": (50, 66)}),
  "open_groups.mp4": ("libx264", {"options": OPEN_GROUPS}),
  "open_groups.mov": ("libx264", {"options": OPEN_GROUPS}),
  "ntsc.mp4": ("libx264", {"rate": fractions.Fraction(30000, 1001)}),
  "uneven_times.mp4": ("libx264", {"times": UNEVEN}),
  "turned.mp4": ("libx264", {"rotation": 90}),
  "ten_bits.mp4": ("libx264", {"pixels": "yuv420p10le"}),
  "fragments.mp4": (
    "libx264",
    {"container": {"movflags": "frag_keyframe+empty_moov"}},
  ),
  "hevc.mp4": ("libx265", {"options": X265}),
  "vp8.webm": ("libvpx", {}),
  "vp9.webm": ("libvpx-vp9", {"options": {"cpu-used": "8"}}),
  "mpeg4.mp4": ("mpeg4", {}),
}
# Files that have to be decoded from the beginning.
UNTOLD = {
  "no_pts.avi": ("libx264", {}),
  "no_times.h264": ("libx264", {}),
  "transport.ts": ("libx264", {}),
  "interlaced.mp4": ("libx264", {"options": {X264: "tff=1"}}),
  "refresh.mp4": ("libx264", {"options": {X264: "intra-refresh=1:keyint=9"}}),
}


def watch(monkeypatch):
  """A list that grows whenever a video is decoded from its beginning."""
  calls, original = [], video._read_all
  monkeypatch.setattr(
    video, "_read_all", lambda *args: calls.append(1) or original(*args)
  )
  return calls


def remux(source, path, change, **options):
  """Copies a video packet by packet, each changed."""
  with (
    av.open(str(source)) as whole,
    av.open(str(path), "w", options=options) as copy,
  ):
    stream = copy.add_stream_from_template(whole.streams.video[0])
    for packet in whole.demux(video=0):
      if packet.dts is not None:
        change(packet)
        packet.stream = stream
        copy.mux(packet)


def by_index(path, indices, **settings):
  return read_frames(path, lambda times: np.array(indices), **settings)


@pytest.mark.parametrize(
  "total,num_frames", [(1, 1), (10, 3), (234, 8), (5, 5)]
)
def test_frames_are_chosen_by_the_published_rule(total, num_frames):
  groups = np.array_split(np.arange(total), num_frames)
  middle = [group[(len(group) + 1) // 2 - 1] for group in groups]
  assert frame_indices(total, num_frames).tolist() == middle
  drawn = np.array(
    [
      frame_indices(total, num_frames, np.random.default_rng(seed))
      for seed in range(300)
    ]
  )
  for group, column in zip(groups, drawn.T):
    assert set(column) <= set(group)
    if len(group) < 30:  # all of a group can be drawn
      assert set(column) == set(group)


def test_a_short_video_repeats_its_last_frame_in_the_indices():
  rng = np.random.default_rng(0)
  assert frame_indices(3, 6).tolist() == [0, 1, 2, 2, 2, 2]
  assert frame_indices(3, 6, rng).tolist() == [0, 1, 2, 2, 2, 2]


def test_the_length_of_a_video_does_not_change_what_is_drawn_for_the_next():
  long, short = np.random.default_rng(0), np.random.default_rng(0)
  frame_indices(1000, 8, long)
  frame_indices(3, 8, short)
  assert long.random() == short.random()


@pytest.mark.parametrize("total,num_frames", [(0, 1), (4, 0), (4, -1)])
def test_no_frames_are_refused(total, num_frames):
  with pytest.raises(ValueError, match=f"total={total}"):
    frame_indices(total, num_frames)


@pytest.mark.parametrize("num_frames", [1, 8, 300])
def test_frames_of_a_real_video_are_exact(clip, decode_all, num_frames):
  everything = np.stack(decode_all(clip))
  chosen = frame_indices(len(everything), num_frames)
  found = read_video(clip, num_frames=num_frames)
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found, everything[chosen])


def test_random_frames_are_exact_from_bytes_and_with_threads(clip, decode_all):
  everything = np.stack(decode_all(clip))
  chosen = frame_indices(len(everything), 6, np.random.default_rng(5))
  for content, num_threads in ((clip.read_bytes(), 1), (str(clip), 2)):
    found = read_video(
      content,
      num_frames=6,
      rng=np.random.default_rng(5),
      num_threads=num_threads,
    )
    np.testing.assert_array_equal(found, everything[chosen])


@pytest.mark.parametrize("name", [*TOLD, *UNTOLD])
def test_every_frame_is_exact(encode, decode_all, monkeypatch, name):
  codec, settings = {**TOLD, **UNTOLD}[name]
  path = encode(name, codec, **settings)
  everything = np.stack(decode_all(path))
  assert len(everything) == 40
  calls = watch(monkeypatch)
  rng = np.random.default_rng(0)
  choices = [[0], [39], [17, 3], *([i, i + 1] for i in range(5, 35, 3))]
  choices += [rng.choice(40, 5, replace=False) for _ in range(4)]
  for chosen in choices:
    found = by_index(path, chosen)
    assert found.num_frames == 40
    np.testing.assert_array_equal(found.indices, chosen)
    np.testing.assert_array_equal(found.frames, everything[chosen])
  assert bool(calls) == (name in UNTOLD)


def test_a_file_is_opened_again_if_its_headers_do_not_say_enough(
  encode, decode_all, monkeypatch
):
  told = encode("b_frames.mp4")
  expected = decode_all(told)
  monkeypatch.setattr(video, "_has_unknown_delay", lambda *args: True)
  calls = watch(monkeypatch)
  found = read_video(told, num_frames=len(expected))
  np.testing.assert_array_equal(found, expected)
  assert not calls


@pytest.mark.parametrize(
  "pts,says_so,unknown",
  [([0, 2, 1], False, True), ([0, 2, 1], True, False), ([0, 1], False, False)],
)
def test_reordered_frames_need_a_decoder_that_knows(pts, says_so, unknown):
  shown = sorted(range(len(pts)), key=pts.__getitem__)
  table = PacketTable(pts, [0], shown, 0, None, fractions.Fraction(1, 30))
  context = types.SimpleNamespace(has_b_frames=says_so)
  stream = types.SimpleNamespace(codec_context=context)
  assert video._has_unknown_delay(stream, table) == unknown


def test_a_key_frame_that_is_none_is_found_out(encode, decode_all, tmp_path):
  source, path = encode("mpeg4.mp4", "mpeg4"), tmp_path / "lies.mp4"
  remux(source, path, lambda packet: setattr(packet, "is_keyframe", True))
  everything = decode_all(source)
  for index in (0, 7, 23):
    np.testing.assert_array_equal(
      by_index(path, [index]).frames[0], everything[index]
    )


def test_what_an_edit_list_hides_is_no_frame(
  encode, decode_all, monkeypatch, tmp_path
):
  calls = watch(monkeypatch)
  source, path = encode("b_frames.mp4"), tmp_path / "cut.mp4"

  def start_later(packet):
    shift = round(7 / 25 / packet.time_base)
    packet.pts, packet.dts = packet.pts - shift, packet.dts - shift

  remux(source, path, start_later, avoid_negative_ts="disabled")
  everything = np.stack(decode_all(path))
  found = by_index(path, [0, 5, 20])
  assert found.num_frames == len(everything) == 33
  np.testing.assert_array_equal(found.frames, everything[[0, 5, 20]])
  assert not calls


def test_what_vp8_only_keeps_to_refer_to_is_no_frame(
  encode, decode_all, monkeypatch, tmp_path
):
  calls = watch(monkeypatch)
  source, path = encode("vp8.webm", "libvpx"), tmp_path / "hidden.webm"
  packets = []

  def hide_the_sixth(packet):
    packets.append(packet)
    if len(packets) == 6:
      content = bytearray(packet)
      content[0] &= 0xEF  # the bit that says "show"
      packet.update(bytes(content))

  remux(source, path, hide_the_sixth)
  everything = np.stack(decode_all(path))
  found = by_index(path, [4, 5, 6])
  assert found.num_frames == len(everything) == 39
  np.testing.assert_array_equal(found.frames, everything[[4, 5, 6]])
  assert not calls


def test_times_are_seconds_from_the_first_frame(encode):
  codec, settings = TOLD["uneven_times.mp4"]
  found = by_index(encode("uneven_times.mp4", codec, **settings), [0, 7, 39])
  np.testing.assert_allclose(
    found.times, (UNEVEN[[0, 7, 39]] - UNEVEN[0]) / 1000, atol=1e-9
  )
  np.testing.assert_allclose(
    by_index(encode("no_times.h264"), [0, 10]).times, [0, 0.4]
  )


def test_only_groups_with_wanted_frames_are_decoded(encode):
  path = encode("b_frames.mp4")
  with open_container(path) as container:
    table = read_packets(container, container.streams.video[0], "clip")
  assert table.keys == [0, 12, 24, 36]
  first, last = plan(table, [table.shown[2], table.shown[38]])
  assert first.start == 0 and first.stop < 12
  assert last.start == 36


def test_runs_that_overlap_are_one():
  # A frame of the second group is shown before its key frame, so that
  # decoding it starts with the first group.
  table = PacketTable(
    pts=[0, 3, 1, 2, 8, 6, 5, 7, 9],
    keys=[0, 4],
    shown=[0, 2, 3, 1, 6, 5, 7, 4, 8],
    num_missing=0,
    last_dts=8,
    time_base=fractions.Fraction(1, 25),
  )
  assert plan(table, [2]) == [Run(0, 0, 2, {2})]
  assert plan(table, [8, 2]) == [Run(0, 0, 2, {2}), Run(4, 4, 8, {8})]
  assert plan(table, [2, 4, 6]) == [Run(0, 0, 6, {2, 4, 6})]
  assert plan(table, [8], num_lead_in=1) == [Run(0, 4, 8, {8})]


def test_each_of_several_streams_is_found(encode, decode_all):
  path = encode.several(
    "two.mp4", ("libx264", {}), ("libx264", {"size": (32, 40), "num": 25})
  )
  for stream in (0, 1):
    everything = np.stack(decode_all(path, stream))
    found = by_index(path, [3, 24], stream=stream)
    assert found.num_frames == len(everything)
    np.testing.assert_array_equal(found.frames, everything[[3, 24]])
  np.testing.assert_array_equal(
    by_index(path, [3]).frames, by_index(path, [3], stream=0).frames
  )
  with pytest.raises(MissingStreamError, match="no video stream 2, since"):
    by_index(path, [0], stream=2)
  with pytest.raises(ValueError, match="from 0, got -1"):
    by_index(path, [0], stream=-1)


def test_a_size_scales_the_whole_picture_smoothly(clip):
  whole = read_video(clip, num_frames=2)
  for size, shape in ((120, (120, 160)), ((60, 100), (60, 100))):
    small = read_video(clip, num_frames=2, size=size)
    assert small.shape == (2, *shape, 3)
    for frame, full in zip(small, whole):
      expected = Image.fromarray(full).resize(
        shape[::-1], Image.Resampling.BILINEAR
      )
      # Two ways to do the same thing: colours before or after.
      assert np.abs(frame - np.asarray(expected, float)).mean() < 2


def test_a_turned_video_is_scaled_upright(encode):
  path = encode("turned.mp4", rotation=90)
  assert read_video(path, num_frames=1).shape == (1, 64, 48, 3)
  assert read_video(path, num_frames=1, size=(20, 30)).shape == (1, 20, 30, 3)


@pytest.mark.parametrize("size", [0, (3,), (1, 2, 3), (4, 0), 2.5, "224"])
def test_a_size_that_is_none_is_refused(clip, size):
  with pytest.raises(ValueError, match="shorter side"):
    read_video(clip, num_frames=1, size=size)


def test_frames_that_do_not_exist_are_not_chosen(clip):
  with pytest.raises(ValueError, match="some of 234 frames"):
    by_index(clip, [0, 234])


def test_headers_are_read(clip, encode):
  info = probe(clip, "video")
  assert info[:6] == ("video", 7.8, 320, 240, 234, 30.0)
  assert (info.sample_rate, info.num_channels) == (44100, 2)
  assert info.codec == "h264" and info.has_audio
  assert info.num_bytes == clip.stat().st_size
  assert info == probe(clip.read_bytes(), "video")
  silent = probe(encode("b_frames.mkv"), "video")
  assert not silent.has_audio and silent.num_frames is None
  assert silent.duration == pytest.approx(1.6, abs=0.05)
  with pytest.raises(ValueError, match="one of the kinds"):
    probe(clip, "film")


def cut(path, share, folder):
  """The first share of a file, in a new one."""
  content = path.read_bytes()
  short = folder / f"cut_{path.name}"
  short.write_bytes(content[: int(share * len(content))])
  return short


def test_a_file_without_its_index_is_refused(encode, tmp_path):
  short = cut(encode("b_frames.mp4"), 0.98, tmp_path)
  with pytest.raises(MediaError, match="cut off") as caught:
    read_video(short, num_frames=2)
  assert caught.value.path == str(short)
  assert str(caught.value) == f"{short}: {caught.value.reason}"
  with pytest.raises(MediaError, match="cut off"):
    probe(short, "video")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_of_a_cut_file_only_frames_that_are_there_come(
  clip, decode_all, tmp_path, share
):
  everything = decode_all(clip)
  short = cut(clip, share, tmp_path)  # its index comes first
  missing = 0
  for index in range(0, len(everything), 13):
    try:
      found = by_index(short, [index])
    except MediaError as error:
      assert "cut off" in error.reason
      missing += 1
    else:
      assert not missing  # none after the cut
      assert found.num_frames == len(everything)
      np.testing.assert_array_equal(found.frames[0], everything[index])
  assert missing == pytest.approx((1 - share) * len(everything) / 13, abs=3)
  with pytest.raises(MediaError, match="cut off"):
    by_index(short, [233])
  with pytest.raises(MediaError, match="cut off"):
    read_video(short, num_frames=100)


def test_wherever_a_file_is_cut_no_frame_takes_the_place_of_another(
  encode, decode_all
):
  path = encode("index_first.mp4", **INDEX_FIRST)
  everything, content = decode_all(path), path.read_bytes()
  with av.open(str(path)) as container:
    ends = [p.pos + p.size for p in container.demux(video=0) if p.size]
  num_right = 0
  for end in ends[13:22]:
    for index in range(8, 24):
      try:
        found = by_index(content[:end], [index])
      except MediaError as error:
        assert "cut off" in error.reason
      else:
        num_right += 1
        np.testing.assert_array_equal(found.frames[0], everything[index])
  assert num_right > 40


@pytest.mark.parametrize("name", ["b_frames.mkv", "fragments.mp4"])
def test_a_cut_file_without_an_index_is_refused(encode, tmp_path, name):
  codec, settings = TOLD[name]
  short = cut(encode(name, codec, **settings), 0.5, tmp_path)
  with pytest.raises(MediaError, match="cut off"):
    read_video(short, num_frames=4)


def test_damage_that_a_frame_depends_on_is_not_hidden(clip, decode_all):
  everything = decode_all(clip)
  content = bytearray(clip.read_bytes())
  with open_container(clip) as container:
    packets = list(container.demux(container.streams.video[0]))[:-1]
  keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
  broken = keys[1] + 5
  start = packets[broken].pos + 100
  content[start : start + 300] = bytes(300)
  before, after = keys[1] + 2, broken + 3
  found = by_index(bytes(content), [before])
  np.testing.assert_array_equal(found.frames[0], everything[before])
  with pytest.raises(MediaError):
    by_index(bytes(content), [after])


def test_broken_bytes_raise_nothing_but_media_errors(clip, encode):
  rng = np.random.default_rng(0)
  for path in (encode("b_frames.mp4"), encode("b_frames.mkv")):
    content = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(40):
      broken = content.copy()
      places = rng.integers(0, len(broken), 20)
      broken[places] = rng.integers(0, 256, 20)
      try:
        read_video(broken.tobytes(), num_frames=3)
        probe(broken.tobytes(), "video")
      except MediaError as error:
        assert error.reason


def test_what_is_no_video_is_refused(tmp_path, encode):
  empty, text = tmp_path / "empty.mp4", tmp_path / "text.mp4"
  empty.write_bytes(b"")
  text.write_text("No video at all.\n" * 200)
  sound = encode.several(
    "sound_only.mp4",
    ("aac", {"rate": 8000, "layout": "mono", "samples": np.zeros((1, 9000))}),
  )
  for path, reason in (
    (empty, r"empty \(0 bytes\)"),
    (b"", r"empty \(0 bytes\)"),
    (text, "no media file"),
    (text.read_bytes(), "no media file"),
    (tmp_path, "it is a folder"),
    (tmp_path / "missing.mp4", "no such file"),
    (text / "below_a_file.mp4", "no such file"),
    ("http://example.com/clip.mp4", "no such file"),
    (sound, "no video stream"),
  ):
    for read in (
      lambda path: read_video(path, num_frames=2),
      lambda path: probe(path, "video"),
    ):
      with pytest.raises(MediaError, match=reason) as caught:
        read(path)
      expected = "<bytes>" if isinstance(path, bytes) else str(path)
      assert caught.value.path == expected
  with pytest.raises(MissingStreamError):
    read_video(sound, num_frames=1)
  with pytest.raises(TypeError, match="path of a media file"):
    read_video(7, num_frames=1)


def test_a_playlist_opens_no_other_file(encode, tmp_path):
  shutil.copy(encode("transport.ts"), tmp_path / "part.ts")
  for content in (
    "ffconcat version 1.0\nfile part.ts\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\npart.ts\n#EXT-X-ENDLIST\n",
  ):
    playlist = tmp_path / "list.mp4"
    playlist.write_text(content)
    with pytest.raises(MediaError, match="no media file"):
      read_video(playlist, num_frames=1)


def test_a_path_that_looks_like_an_address_is_a_path(
  clip, monkeypatch, tmp_path
):
  monkeypatch.chdir(tmp_path)
  for name in ("http:clip.mp4", "cache:clip.mp4", "%03d.mp4"):
    shutil.copy(clip, name)
    assert read_video(name, num_frames=1).shape == (1, 240, 320, 3)


def test_an_error_survives_the_way_from_a_worker():
  error = pickle.loads(pickle.dumps(MissingStreamError("a.mp4", "no sound")))
  assert isinstance(error, MissingStreamError)
  assert (error.path, error.reason) == ("a.mp4", "no sound")


def test_without_pyav_it_is_said_how_to_get_it(clip, monkeypatch):
  monkeypatch.setitem(sys.modules, "av", None)
  with pytest.raises(ImportError, match=r"pmrl_jax\[media\]"):
    require_av()
  with pytest.raises(ImportError, match=r"pmrl_jax\[media\]"):
    read_video(clip, num_frames=1)


@pytest.mark.shared
def test_frames_of_all_real_videos_are_exact(shared):
  paths = sorted(shared("data/media").glob("*.mp4"))
  totals = {}
  for path in paths:
    with av.open(str(path)) as container:
      num_streams = len(container.streams.video)
    for stream in range(num_streams):
      found = read_frames(
        path, lambda times: frame_indices(len(times), 7), stream=stream
      )
      totals[path.name, stream] = found.num_frames
      wanted = dict(zip(found.indices.tolist(), found.frames))
      with av.open(str(path)) as container:
        frames = container.decode(container.streams.video[stream])
        for index, frame in enumerate(frames):
          if index in wanted:
            np.testing.assert_array_equal(
              wanted.pop(index), frame.to_ndarray(format="rgb24")
            )
      assert not wanted and index + 1 == found.num_frames
  assert totals == {
    ("big_buck_bunny_480p_30s.mp4", 0): 720,
    ("mdn_elf.mp4", 0): 241,
    ("mdn_frog.mp4", 0): 248,
    ("mdn_monster.mp4", 0): 220,
    ("mdn_pig.mp4", 0): 196,
    ("mdn_rabbit320.mp4", 0): 234,
    ("nasa_13013.mp4", 0): 325,
    ("nasa_13013.mp4", 1): 390,
  }
