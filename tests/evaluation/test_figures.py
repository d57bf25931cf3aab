import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from pmrl_jax.evaluation import Display, evaluate
from pmrl_jax.evaluation.report import style
from pmrl_jax.evaluation.report.curves import (
  series,
  spectrum_curves,
  training_curves,
)
from pmrl_jax.evaluation.report.matrix import retrieval_matrix
from pmrl_jax.evaluation.report.projection import joint_space, project
from pmrl_jax.evaluation.report.retrieved import (
  Example,
  log_spectrogram,
  retrieve_examples,
  retrieved_figure,
)


def history(num_steps):
  rows = []
  for step in range(num_steps):
    rows.append(
      {
        "kind": "train",
        "step": step,
        "loss": 3.0 - step / num_steps,
        "alignment": 1.0,
        "instance": 2.0 - step / num_steps,
        "grad_norm": 10.0 ** (-step / num_steps),
        "learning_rate": 1e-3,
      }
    )
    if step % 5 == 0:
      rows.append(
        {
          "kind": "eval",
          "step": step,
          "mean_R@1": step / num_steps,
          "flipped_share": 0.1,
          "spectrum": [1.5, 0.5, 0.25],
        }
      )
  return rows


def texts(figure):
  return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def line(figure, label):
  (found,) = (
    line
    for axes in figure.axes
    for line in axes.lines
    if line.get_label() == label
  )
  return found


def test_series_sorts_steps_and_turns_what_is_not_finite_into_gaps():
  rows = [
    {"kind": "train", "step": 4, "loss": float("inf")},
    {"kind": "train", "step": 2, "loss": 0.5},
    {"kind": "train", "step": 3, "loss": None},
    {"kind": "eval", "step": 1, "loss": 9.0},
    {"kind": "train", "step": 1},
  ]
  steps, values = series(rows, "train", "loss")
  np.testing.assert_array_equal(steps, [2, 3, 4])
  np.testing.assert_array_equal(values, [0.5, np.nan, np.nan])


def test_training_curves_show_the_recorded_values():
  rows = history(20)
  figure = training_curves(rows)
  for kind, key, label in (
    ("train", "loss", "loss"),
    ("train", "alignment", "alignment"),
    ("train", "instance", "instance"),
    ("eval", "mean_R@1", "mean R@1"),
  ):
    steps, values = series(rows, kind, key)
    np.testing.assert_array_equal(line(figure, label).get_xdata(), steps)
    np.testing.assert_array_equal(line(figure, label).get_ydata(), values)
  assert len(figure.axes) == 4


def test_long_series_are_drawn_with_their_running_mean():
  rows = history(400)
  rows[7]["loss"] = float("nan")
  smooth = line(training_curves(rows), "loss").get_ydata()
  assert np.isfinite(smooth).all()
  np.testing.assert_allclose(
    line(training_curves(rows), "alignment").get_ydata(), 1
  )


@pytest.mark.parametrize(
  ("rows", "panels"),
  [
    (history(1)[:1], 3),
    (history(1)[1:], 1),
    ([{"kind": "train", "step": 0, "loss": 1.0}], 1),
  ],
)
def test_training_curves_need_no_more_than_one_measure(rows, panels):
  figure = training_curves(rows)
  assert len(figure.axes) == panels
  style.png_bytes(figure)


def test_an_empty_history_has_no_curves():
  nan = {"kind": "train", "step": 0, "loss": float("nan")}
  assert training_curves([]) is None
  assert training_curves([nan]) is None
  assert spectrum_curves([], []) is None


def test_spectrum_is_drawn_over_steps_or_as_bars():
  curves = spectrum_curves(history(20), [1.7, 0.1, 0.1])
  np.testing.assert_array_equal(line(curves, "σ₁").get_ydata(), [1.5] * 4)
  np.testing.assert_array_equal(line(curves, "σ₃").get_xdata(), [0, 5, 10, 15])
  assert "√3: fully aligned" in texts(curves)
  bars = spectrum_curves([], [1.7, 0.1, 0.1])
  heights = [patch.get_height() for patch in bars.axes[0].patches]
  assert heights == [1.7, 0.1, 0.1]


def test_matrix_annotates_every_direction(make_set):
  data = make_set(noise=2.0)
  retrieval = evaluate(data, level="class")["retrieval"]
  retrieval["text->rest"]["R@1"] = float("nan")
  figure = retrieval_matrix(retrieval, data.modalities)
  shown = texts(figure)
  for name, scores in retrieval.items():
    expected = "–" if name == "text->rest" else f"{scores['R@1']:.3f}"
    assert expected in shown
  assert {"image", "speech", "text", "rest"} <= set(shown)


def test_projection_keeps_clusters_apart(make_set):
  data = make_set(100, noise=0.05)
  projection = project(data)
  assert projection.method == "t-SNE"
  assert projection.points.shape == (300, 2)
  centres = np.stack(
    [projection.points[projection.labels == c].mean(axis=0) for c in range(5)]
  )
  distances = np.linalg.norm(projection.points[:, None] - centres, axis=-1)
  np.testing.assert_array_equal(distances.argmin(axis=1), projection.labels)


def test_projection_is_reproducible_and_bounded(make_set, monkeypatch):
  monkeypatch.setattr("pmrl_jax.evaluation.report.projection.MAX_POINTS", 45)
  data = make_set(200)
  first, second = project(data), project(data)
  np.testing.assert_array_equal(first.points, second.points)
  assert first.modality.tolist() == [0] * 15 + [1] * 15 + [2] * 15


@pytest.mark.parametrize("dim", [1, 2, 16])
def test_projection_of_few_or_collapsed_points_is_linear(make_set, dim):
  few = project(make_set(4, dim=dim))
  data = make_set(40, dim=dim)
  collapsed = project(data._replace(embeddings=np.ones_like(data.embeddings)))
  for projection in (few, collapsed):
    assert projection.method == "PCA"
    assert np.isfinite(projection.points).all()
    assert projection.points.shape[1] == 2


def test_joint_space_names_classes_and_modalities(make_set):
  data = make_set(8, num_classes=3)
  names = ["zéro", "um", "dós"]
  shown = texts(joint_space(project(data), data.modalities, names))
  assert {*names, *data.modalities} <= set(shown)
  data = data._replace(labels=None)
  shown = texts(joint_space(project(data), data.modalities))
  assert "class" not in shown


def test_joint_space_groups_rare_classes(make_set):
  data = make_set(40, num_classes=13)
  shown = texts(joint_space(project(data), data.modalities))
  assert "4 others" in shown
  assert "0" in shown
  assert "12" not in shown


@pytest.mark.parametrize("level", ["class", "instance"])
def test_examples_are_the_nearest_records(make_set, level):
  data = make_set(noise=1.0)
  examples = retrieve_examples(data, data.modalities, level=level)
  assert len({(example.query, example.gallery) for example in examples}) == 6
  for example in examples:
    i = data.modalities.index(example.query)
    j = data.modalities.index(example.gallery)
    gallery = data.embeddings[:, j]
    cosines = gallery @ data.embeddings[example.query_item, i]
    cosines /= np.linalg.norm(gallery, axis=1)
    cosines /= np.linalg.norm(data.embeddings[example.query_item, i])
    best = np.argsort(-cosines)[:5]
    np.testing.assert_array_equal(example.items, best)
    np.testing.assert_allclose(example.cosines, cosines[best], rtol=1e-5)
    if level == "class":
      hits = data.labels[best] == data.labels[example.query_item]
    else:
      hits = best == example.query_item
    np.testing.assert_array_equal(example.relevant, hits)


def test_two_modalities_get_several_queries_each(make_set):
  data = make_set(modalities=("a", "b"))
  examples = retrieve_examples(data, data.modalities, level="class")
  assert [example.query for example in examples] == ["a"] * 3 + ["b"] * 3


def test_relevance_is_ticked_as_well_as_coloured():
  example = Example(
    "word",
    "word2",
    0,
    np.array([1, 2]),
    np.array([0.9, 0.8]),
    np.array([True, False]),
    0,
    np.array([0, 1]),
  )
  display = Display("text", ["żółty", "sıfır", b"f\xc3\xbcnf"])
  figure = retrieved_figure(
    [example], {"word": display, "word2": display}, ["yes", "no"]
  )
  shown = texts(figure)
  assert {"żółty", "sıfır", "fünf", "✓ yes  0.90", "✗ no  0.80"} <= set(shown)
  frames = [axes.spines["left"].get_linestyle() for axes in figure.axes]
  assert frames[1] != frames[2]


@pytest.mark.parametrize(
  "value",
  [
    np.arange(64).reshape(8, 8),
    np.full((8, 8, 1), 3.0),
    np.zeros((8, 6, 3), np.uint8),
    np.linspace(-2, 5, 8 * 6 * 3).reshape(8, 6, 3),
  ],
)
def test_images_of_any_range_are_drawn(value):
  example = Example(
    "a", "a", 0, np.array([0]), np.ones(1), np.array([True]), None, None
  )
  figure = retrieved_figure([example], {"a": Display("image", [value])})
  (first, _) = figure.findobj(AxesImage)
  assert first.get_array().shape == np.squeeze(value).shape
  style.png_bytes(figure)


def test_spectrogram_finds_the_pitch_and_the_duration():
  rate = 8000
  tone = np.sin(2 * np.pi * 1000 * np.arange(rate // 2) / rate + 0.1)
  levels, duration = log_spectrogram(np.pad(tone, (0, 4000)), rate)
  assert duration == pytest.approx(0.5, abs=1e-3)
  frequencies = np.linspace(0, rate / 2, len(levels))
  middle = levels[:, levels.shape[1] // 2]
  assert frequencies[middle.argmax()] == pytest.approx(1000, abs=20)
  assert levels.max() == 0
  assert levels.min() == -60


@pytest.mark.parametrize("waveform", [np.zeros(800), np.zeros(0), np.ones(3)])
def test_spectrogram_of_silence_is_finite(waveform):
  levels, _ = log_spectrogram(waveform, 8000)
  assert levels.size
  assert np.isfinite(levels).all()


def test_spectrogram_wants_one_channel():
  with pytest.raises(ValueError, match="mix channels down"):
    log_spectrogram(np.zeros((2, 800)), 8000)


def test_texts_are_never_read_as_formulas(make_set):
  names = (r"$\frac$", "$x^2$")
  data = make_set(6, names, num_classes=2)
  display = Display("text", [r"$\notacommand{$"] * 6)
  examples = retrieve_examples(data, names, level="class")
  classes = [r"$\bad$", "$"]
  for figure in (
    retrieval_matrix(evaluate(data, level="class")["retrieval"], names),
    joint_space(project(data), names, classes),
    retrieved_figure(examples, dict.fromkeys(names, display), classes),
  ):
    style.png_bytes(figure)


def test_drawing_leaves_the_settings_of_matplotlib_alone():
  before = dict(matplotlib.rcParams)
  figure = training_curves(history(5))
  style.png_bytes(figure)
  assert isinstance(figure, Figure)
  assert dict(matplotlib.rcParams) == before
