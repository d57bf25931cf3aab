import base64
import html.parser
import io
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from pmrl_jax.evaluation import Display, evaluate, write_report
from pmrl_jax.evaluation.report import style

FIGURES = ("training", "spectrum", "retrieval", "joint_space", "retrieved")


class Page(html.parser.HTMLParser):
  """Elements, attributes and visible text of a document."""

  def __init__(self, document):
    super().__init__()
    self.elements, self.text, self.open = [], [], []
    self.feed(document)
    assert not self.open, f"not closed: {self.open}"

  def handle_starttag(self, tag, attributes):
    self.elements.append((tag, dict(attributes)))
    if tag not in ("meta", "img"):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)


@pytest.fixture(autouse=True)
def coarse_images(monkeypatch):
  monkeypatch.setattr(style, "DPI", 60)


@pytest.fixture
def arguments(make_set):
  """A run with one modality of each kind of display, and a hole in it."""
  modalities = ("image", "speech", "text", "pen", "features")
  data = make_set(40, modalities, missing=0.1)
  rng = np.random.default_rng(0)
  displays = {
    "image": Display("image", rng.integers(0, 17, (40, 8, 8))),
    "speech": Display("waveform", list(rng.normal(size=(40, 2000))), 8000),
    "text": Display("text", ["sıfır", "fünf", "żółty", "zéro"] * 10),
    "pen": Display("trajectory", rng.integers(0, 101, (40, 8, 2))),
    "features": Display("vector", rng.normal(size=(40, 30))),
  }
  history = []
  for step in range(0, 40, 4):
    history += [
      {"kind": "train", "step": step, "loss": 2.0, "grad_norm": 1.0 + step},
      {
        "kind": "eval",
        "step": step,
        "mean_R@1": step / 40,
        "spectrum": [2.0, 0.5, 0.4, 0.3, 0.2],
      },
    ]
  return {
    "title": "Five modalities",
    "summary": evaluate(
      data, train_set=make_set(40, modalities), level="class"
    ),
    "history": history,
    "test_set": data,
    "displays": displays,
    "level": "class",
    "class_names": ["null", "eins", "zwei", "drei", "vier"],
    "facts": {"parameters": "1,234", "seconds": "12"},
  }


def is_blank(path_or_stream):
  return imread(path_or_stream, format="png")[..., :3].std() < 1e-3


def test_report_holds_every_figure_and_all_scores(tmp_path, arguments):
  path = write_report(tmp_path / "run", **arguments)
  assert path == tmp_path / "run" / "report.html"
  page = Page(path.read_text(encoding="utf-8"))
  images = [given for tag, given in page.elements if tag == "img"]
  files = {name: (path.parent / f"{name}.png") for name in FIGURES}
  embedded = set()
  for image in images:
    assert len(image["alt"]) > 20
    head, data = image["src"].split(",")
    assert head == "data:image/png;base64"
    embedded.add(base64.b64decode(data))
  assert embedded == {file.read_bytes() for file in files.values()}
  for file in files.values():
    assert not is_blank(file)
  text = " ".join(page.text)
  summary = arguments["summary"]
  for scores in summary["retrieval"].values():
    assert f"{scores['mAP']:.3f}" in text
  for scores in summary["probe"].values():
    assert f"{scores['linear']:.3f}" in text
  for words in ("Five modalities", "1,234", "t-SNE of", "5 modalities"):
    assert words in text


def test_report_needs_nothing_from_outside(tmp_path, arguments):
  path = write_report(tmp_path, **arguments)
  document = path.read_text(encoding="utf-8")
  page = Page(document)
  tags = {tag for tag, _ in page.elements}
  assert not tags & {"script", "link", "iframe", "object", "base", "form"}
  for _, attributes in page.elements:
    assert not any(name.startswith("on") for name in attributes)
    assert attributes.get("src", "data:").startswith("data:")
    assert "href" not in attributes
  for word in ("http://", "https://", "@import", "url("):
    assert word not in document


def test_hostile_texts_are_escaped(tmp_path, arguments, make_set):
  hostile = "<script>alert(1)</script>\"'&"
  modalities = (hostile, "text")
  data = make_set(12, modalities, num_classes=2)
  path = write_report(
    tmp_path,
    title=hostile,
    summary=evaluate(data, train_set=data, level="class"),
    history=[],
    test_set=data,
    displays={name: Display("text", [hostile] * 12) for name in modalities},
    level="class",
    class_names=[hostile, hostile],
    facts={hostile: hostile},
  )
  document = path.read_text(encoding="utf-8")
  assert "<script" not in document
  page = Page(document)
  assert "script" not in {tag for tag, _ in page.elements}
  # Twice as title, as fact's name and text, in tables: as text each time.
  assert "".join(page.text).count(hostile) > 5


@pytest.mark.parametrize("size", [2, 8])
@pytest.mark.parametrize("labelled", [True, False])
def test_report_of_any_number_of_modalities(tmp_path, make_set, size, labelled):
  names = [f"view_{i}" for i in range(size)]
  data = make_set(12, names, missing=0.1, noise=0.3)
  data = data if labelled else data._replace(labels=None)
  path = write_report(
    tmp_path,
    title="views",
    summary=evaluate(data, level="instance"),
    history=[],
    test_set=data,
    displays={"view_1": Display("vector", np.eye(12))},
    level="instance",
    facts={},
  )
  # One display alone is no pair to retrieve from, an empty history no curve.
  files = {file.name for file in path.parent.iterdir()}
  assert files == {
    "report.html",
    "spectrum.png",
    "retrieval.png",
    "joint_space.png",
  }
  for name in files - {"report.html"}:
    assert not is_blank(tmp_path / name)


def test_report_of_a_diverged_run(tmp_path, arguments):
  test_set = arguments["test_set"]
  embeddings = np.full_like(test_set.embeddings, np.nan)
  embeddings[:20] = test_set.embeddings[:20]
  embeddings[3, :, 0] = np.nan
  nan = float("nan")
  arguments |= {
    "test_set": test_set._replace(embeddings=embeddings),
    "history": [
      {"kind": "train", "step": 0, "loss": 1.0, "grad_norm": None},
      {"kind": "train", "step": 1, "loss": nan, "grad_norm": float("inf")},
      {"kind": "eval", "step": 1, "mean_R@1": nan, "spectrum": [nan] * 5},
    ],
    "summary": {"retrieval": {}, "mean_R@1": nan, "spectrum": [nan] * 5},
  }
  path = write_report(tmp_path, **arguments)
  assert "–" in path.read_text(encoding="utf-8")
  assert not is_blank(tmp_path / "training.png")
  embeddings[:] = np.nan
  write_report(tmp_path / "all", **arguments)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"level": "klass"}, "level must be one of"),
    ({"displays": {"smell": Display("text", [])}}, "'smell', which is not"),
    ({"displays": {"text": Display("video", [])}}, "kind 'video'; known"),
    ({"displays": {"text": Display("text", ["a"])}}, "holds 1 values, but"),
  ],
)
def test_a_mistake_leaves_the_earlier_report_untouched(
  tmp_path, arguments, change, message
):
  path = tmp_path / "report.html"
  path.write_text("the earlier report")
  with pytest.raises(ValueError, match=message):
    write_report(tmp_path, **(arguments | change))
  assert path.read_text() == "the earlier report"
  assert list(tmp_path.iterdir()) == [path]


def test_a_waveform_needs_its_sample_rate(tmp_path, arguments):
  speech = arguments["displays"]["speech"]._replace(sample_rate=None)
  arguments["displays"] |= {"speech": speech}
  with pytest.raises(ValueError, match="sample_rate in Hz"):
    write_report(tmp_path, **arguments)


def test_class_level_needs_labels(tmp_path, arguments):
  arguments["test_set"] = arguments["test_set"]._replace(labels=None)
  with pytest.raises(ValueError, match="needs labels"):
    write_report(tmp_path, **arguments)


def test_figures_are_fine_enough_for_print(monkeypatch, make_set):
  monkeypatch.undo()
  from pmrl_jax.evaluation.report.matrix import retrieval_matrix

  figure = retrieval_matrix({"a->b": {"R@1": 0.5}}, ("a", "b"))
  image = imread(io.BytesIO(style.png_bytes(figure)), format="png")
  assert image.shape[1] / figure.get_figwidth() >= 150


def test_the_room_neither_needs_pyplot_nor_other_rooms():
  code = (
    "import sys, pmrl_jax.evaluation\n"
    "names = [n for n in sys.modules if n.startswith('pmrl_jax.')]\n"
    "rooms = {name.split('.')[1] for name in names}\n"
    "assert rooms == {'evaluation', 'losses', 'version'}, rooms\n"
    "assert 'matplotlib.pyplot' not in sys.modules\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    cwd=pathlib.Path(__file__).parents[2],
  )
  assert done.returncode == 0, done.stderr
