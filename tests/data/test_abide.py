"""ABIDE: files written here, against oracles that share no code with it."""

import csv
import math
import shutil

import numpy as np
import pytest

from pmrl_jax.data.datasets import builders
from pmrl_jax.data.datasets.abide import (
  MODALITIES,
  abide,
  leave_site_out_splits,
  read_abide,
  split_sources,
  ten_fold_splits,
)
from pmrl_jax.data.datasets.abide.connectivity import (
  MAX_CORRELATION,
  fisher_z_connectivity,
  pair_names,
  read_time_series,
)
from pmrl_jax.data.datasets.abide.phenotype import FEATURES, feature_table
from pmrl_jax.data.tfds_rows import TfdsRows

REGIONS = (2001, 2002, 2101, 2102, 9)
SITES = ("NYU", "PITT", "UM_1")
NUM_SUBJECTS = 60
# The header of the file, shortened where columns differ by a number only.
HEADER = (
  *("", "Unnamed: 0", "SUB_ID", "X", "subject", "SITE_ID", "FILE_ID"),
  *("DX_GROUP", "DSM_IV_TR", "AGE_AT_SCAN", "SEX", "HANDEDNESS_CATEGORY"),
  *("HANDEDNESS_SCORES", "FIQ", "VIQ", "PIQ", "FIQ_TEST_TYPE"),
  *("ADI_R_SOCIAL_TOTAL_A", "ADOS_TOTAL", "ADOS_GOTHAM_SEVERITY"),
  *("SRS_RAW_TOTAL", "SCQ_TOTAL", "AQ_TOTAL", "COMORBIDITY"),
  *("CURRENT_MED_STATUS", "MEDICATION_NAME", "OFF_STIMULANTS_AT_SCAN"),
  *("VINELAND_ABC_STANDARD", "WISC_IV_VCI", "EYE_STATUS_AT_SCAN"),
  *("AGE_AT_MPRAGE", "BMI", "anat_snr", "func_mean_fd", "qc_rater_1"),
  *("qc_anat_rater_2", "qc_func_rater_2", "qc_anat_rater_3"),
  *("qc_func_rater_3", "qc_notes_rater_1", "SUB_IN_SMP"),
)
ALLOWED = {
  *("AGE_AT_SCAN", "SEX", "HANDEDNESS_CATEGORY", "HANDEDNESS_SCORES"),
  *("FIQ", "VIQ", "PIQ", "WISC_IV_VCI", "EYE_STATUS_AT_SCAN"),
  *("AGE_AT_MPRAGE", "BMI"),
}


def person(rng, number):
  """A row of the phenotype file, with a planted effect."""
  patient = number % 2
  row = dict.fromkeys(HEADER, "0")
  for name in HEADER:
    if name.startswith("qc_"):
      row[name] = "OK"
  site = SITES[number % len(SITES)]
  return row | {
    "SITE_ID": site,
    "FILE_ID": f"{site}_{50000 + number:07d}",
    "DX_GROUP": "1" if patient else "2",
    "AGE_AT_SCAN": f"{rng.uniform(8, 40):.2f}",
    "SEX": "1" if rng.random() < 0.8 else "2",
    "HANDEDNESS_CATEGORY": rng.choice(["R", "L", "Ambi"]),
    "FIQ": f"{rng.normal(115 - 30 * patient, 8):.1f}",
    "VIQ": "-9999",
    "PIQ": f"{rng.normal(105, 10):.0f}",
    "EYE_STATUS_AT_SCAN": str(rng.integers(1, 3)),
    "ADOS_TOTAL": "12" if patient else "-9999",
  }


def time_series(rng, patient, length=40):
  series = rng.normal(size=(length, len(REGIONS)))
  # Patients: the first two regions go together, else the last two.
  pair = (0, 1) if patient else (3, 4)
  series[:, pair[1]] += 1.5 * series[:, pair[0]]
  return series


def write_series(path, series):
  header = "\t".join(f"#{region}" for region in REGIONS)
  np.savetxt(path, series, delimiter="\t", header=header, comments="")


def write_phenotype(root, people):
  path = root / "Phenotypic_V1_0b_preprocessed1.csv"
  with path.open("w", newline="") as file:
    writer = csv.DictWriter(file, HEADER)
    writer.writeheader()
    writer.writerows(people)


def write_tables(root, people, rng):
  people = list(rng.permutation(np.asarray(people, object)))
  thickness, volume = ["FILE_ID\tlh_insula\tlh_cuneus"], ["Measure\tLeft-X"]
  for row in people:
    effect = 0.6 if row["DX_GROUP"] == "1" else 0.0
    left, right = rng.normal(2.5 + effect, 0.2), rng.normal(2.0, 0.2)
    thickness.append(f"{row['FILE_ID']}\t{left:.3f}\t{right:.3f}")
    volume.append(f"{row['FILE_ID']}\t{rng.normal(5000, 400):.1f}")
  folder = root / "freesurfer"
  folder.mkdir()
  (folder / "lh.aparc_table_thickness.tsv").write_text("\n".join(thickness))
  (folder / "aseg_table.tsv").write_text("\n".join(volume) + "\n")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
  rng = np.random.default_rng(0)
  root = tmp_path_factory.mktemp("abide")
  people = [person(rng, number) for number in range(NUM_SUBJECTS)]
  write_phenotype(root, people)
  series = root / "cpac" / "filt_global"
  series.mkdir(parents=True)
  for row in people:
    values = time_series(rng, row["DX_GROUP"] == "1")
    write_series(series / f"{row['FILE_ID']}_rois_ho.1D", values)
  write_tables(root, people, rng)
  return root


@pytest.fixture
def root(original, tmp_path):
  """A copy that a test may spoil."""
  return shutil.copytree(original, tmp_path / "abide")


def change_phenotype(root, change):
  path = root / "Phenotypic_V1_0b_preprocessed1.csv"
  with path.open(newline="") as file:
    people = list(csv.DictReader(file))
  change(people)
  write_phenotype(root, people)


def correlation(x, y):
  """Pearson's, from its definition."""
  x, y = list(map(float, x)), list(map(float, y))
  mx, my = math.fsum(x) / len(x), math.fsum(y) / len(y)
  xy = math.fsum((a - mx) * (b - my) for a, b in zip(x, y))
  xx = math.fsum((a - mx) ** 2 for a in x)
  yy = math.fsum((b - my) ** 2 for b in y)
  return xy / math.sqrt(xx * yy)


def some_row(**values):
  return dict.fromkeys(HEADER, "1") | values


def noted(tables, *words):
  return any(all(word in note for word in words) for note in tables.notes)


# Connectivity.


def test_connectivity_is_the_fisher_z_of_every_pair_in_order():
  series = np.random.default_rng(1).normal(size=(50, 4))
  series[:, 2] -= 0.8 * series[:, 0]
  expected = [
    0.5 * math.log((1 + r) / (1 - r))
    for i in range(4)
    for j in range(i + 1, 4)
    for r in [correlation(series[:, i], series[:, j])]
  ]
  result = fisher_z_connectivity(series)
  assert result.values.dtype == np.float32
  np.testing.assert_allclose(result.values, expected, rtol=1e-5)
  assert pair_names(("a", "b", "c")) == ("a-b", "a-c", "b-c")
  assert (result.num_undefined, result.num_clipped) == (0, 0)


def test_connectivity_is_blind_to_scale_and_offset_of_a_region():
  rng = np.random.default_rng(2)
  series = rng.normal(size=(40, 6))
  changed = series * rng.uniform(0.1, 1e4, 6) + rng.normal(size=6) * 100
  np.testing.assert_allclose(
    fisher_z_connectivity(changed).values,
    fisher_z_connectivity(series).values,
    atol=1e-5,
  )


@pytest.mark.parametrize("bad", ["constant", np.nan, np.inf])
def test_a_region_without_a_course_is_undefined_and_spoils_no_other(bad):
  series = np.random.default_rng(3).normal(size=(30, 4))
  whole = fisher_z_connectivity(series).values
  if bad == "constant":
    series[:, 1] = 0.1
  else:
    series[7, 1] = bad
  result = fisher_z_connectivity(series)
  touched = np.array([1 in (i, j) for i in range(4) for j in range(i + 1, 4)])
  np.testing.assert_array_equal(np.isnan(result.values), touched)
  np.testing.assert_array_equal(result.values[~touched], whole[~touched])
  assert result.num_undefined == 1


def test_correlations_of_one_stay_finite_and_are_counted():
  series = np.random.default_rng(4).normal(size=(30, 3))
  series[:, 1], series[:, 2] = 3 * series[:, 0], -series[:, 0]
  result = fisher_z_connectivity(series)
  limit = math.atanh(MAX_CORRELATION)
  np.testing.assert_allclose(result.values, [limit, -limit, -limit], rtol=1e-4)
  assert result.num_clipped == 3


def test_time_series_are_read_as_written(tmp_path):
  series = np.random.default_rng(5).normal(size=(20, len(REGIONS)))
  path = tmp_path / "NYU_0050001_rois_ho.1D"
  write_series(path, series)
  result = read_time_series(path)
  np.testing.assert_array_equal(result.values, series)
  assert result.regions == tuple(map(str, REGIONS))


@pytest.mark.parametrize(
  "change,message",
  [
    (lambda text: text[1:].replace("#", ""), "region numbers with #.*2001"),
    (lambda text: text.replace("#9\n", "\n"), "4 numbers a line.*got 5"),
    (lambda text: "\n".join(text.split("\n")[:6]), "at least 10 .*got 5"),
    (lambda text: text.split("\n")[0], "at least 10 time points.*got 0"),
    (lambda text: text[:-9] + "oops\n", "expected numbers in"),
  ],
)
def test_a_bad_time_series_is_an_error_that_names_the_file(
  tmp_path, change, message
):
  path = tmp_path / "x_rois_ho.1D"
  write_series(path, np.random.default_rng(6).normal(size=(20, len(REGIONS))))
  path.write_text(change(path.read_text()))
  with pytest.raises(ValueError, match=message) as raised:
    read_time_series(path)
  assert str(path) in str(raised.value)


# Phenotype.


def test_missing_values_get_an_indicator():
  rows = [
    some_row(FIQ="100.5", SEX="1"),
    some_row(FIQ="-9999", SEX="2.0"),
    some_row(FIQ="", SEX="-9999.0"),
  ]
  table = feature_table(rows, ["FIQ", "SEX"])
  assert table.columns == (
    *("FIQ", "FIQ missing"),
    *("SEX=1", "SEX=2", "SEX missing"),
  )
  np.testing.assert_array_equal(
    table.values,
    [[100.5, 0, 1, 0, 0], [np.nan, 1, 0, 1, 0], [np.nan, 1, 0, 0, 1]],
  )
  np.testing.assert_array_equal(table.scaled, [1, 0, 0, 0, 0])
  np.testing.assert_array_equal(table.where, [True, True, False])
  assert noted(table, "FIQ is missing for 2 of 3")


def test_columns_are_allowed_or_refused_with_a_reason():
  rows = [some_row(), some_row()]
  allowed = set()
  for name in HEADER[1:]:
    try:
      feature_table(rows, [name])
      allowed.add(name)
    except ValueError as error:
      assert f"{name!r} cannot be a feature: it" in str(error)
  assert allowed == ALLOWED
  assert set(FEATURES) <= ALLOWED


@pytest.mark.parametrize(
  "name,reason",
  [
    ("DX_GROUP", "is the label"),
    ("ADOS_TOTAL", "the diagnosis rests on"),
    ("ADI_R_VERBAL_TOTAL_BV", "the diagnosis rests on"),
    ("SRS_VERSION", "how autistic a person is"),
    ("SUB_ID", "numbers the subjects"),
    ("SITE_ID", "tells the site.*allow_site=True"),
    ("FIQ_TEST_TYPE", "tells the site.*allow_site=True"),
  ],
)
def test_a_column_that_leaks_says_why(original, name, reason):
  with pytest.raises(ValueError, match=f"{name}.*{reason}"):
    abide(original, fold=0, features=["FIQ", name])


def test_the_site_is_a_feature_where_asked_for(original):
  tables = read_abide(
    original, modalities=["phenotype"], features=["SITE_ID"], allow_site=True
  )
  assert tables.columns["phenotype"][:-1] == tuple(
    f"SITE_ID={site}" for site in SITES
  )
  named = np.asarray(SITES)[tables.arrays["phenotype"][:, :-1].argmax(axis=1)]
  np.testing.assert_array_equal(named, tables.sites)


def test_columns_that_are_neither_numbers_nor_levels_are_refused():
  rows = [some_row(BMI=f"text {i}") for i in range(40)]
  with pytest.raises(ValueError, match="at most 30 levels, got 40"):
    feature_table(rows, ["BMI"])
  with pytest.raises(ValueError, match="such as .*AGE_AT_SCAN.*got 'AGE'"):
    feature_table(rows, ["AGE"])
  with pytest.raises(ValueError, match="got none"):
    feature_table(rows, [])


# All subjects.


def test_rows_of_all_modalities_are_the_same_person(original):
  tables = read_abide(original)
  assert tuple(tables.arrays) == MODALITIES
  assert len(tables.ids) == NUM_SUBJECTS and tables.where.all()
  np.testing.assert_array_equal(tables.labels, np.arange(NUM_SUBJECTS) % 2)
  assert tables.columns["structure"] == (
    "aseg_table:Left-X",
    "lh.aparc_table_thickness:lh_insula",
    "lh.aparc_table_thickness:lh_cuneus",
  )
  assert tables.columns["connectivity"][:2] == ("2001-2002", "2001-2101")
  for row in (0, 17, NUM_SUBJECTS - 1):
    item = tables.ids[row]
    assert item.startswith(tables.sites[row])
    path = original / "cpac" / "filt_global" / f"{item}_rois_ho.1D"
    series = np.loadtxt(path)
    z = math.atanh(correlation(series[:, 0], series[:, 2]))
    np.testing.assert_allclose(tables.arrays["connectivity"][row, 1], z, 1e-4)
    table = original / "freesurfer" / "lh.aparc_table_thickness.tsv"
    line = next(
      text for text in table.read_text().split("\n") if text.startswith(item)
    )
    np.testing.assert_allclose(
      tables.arrays["structure"][row, 1:], list(map(float, line.split()[1:]))
    )


def test_who_lacks_a_modality_stays_and_is_masked(root):
  tables = read_abide(root)
  first, second = tables.ids[:2]
  (root / "cpac" / "filt_global" / f"{first}_rois_ho.1D").unlink()
  for path in (root / "freesurfer").iterdir():
    lines = path.read_text().split("\n")
    path.write_text("\n".join(x for x in lines if not x.startswith(second)))
  fewer = read_abide(root)
  assert fewer.ids == tables.ids
  np.testing.assert_array_equal(fewer.where[0], [False, True, True])
  np.testing.assert_array_equal(fewer.where[1], [True, False, True])
  assert fewer.where[2:].all()
  assert noted(fewer, f"{NUM_SUBJECTS - 1} of {NUM_SUBJECTS} subjects have")
  assert noted(fewer, "aseg_table.tsv lacks 1 subjects")
  np.testing.assert_array_equal(
    fewer.arrays["connectivity"][1:], tables.arrays["connectivity"][1:]
  )
  train, _ = split_sources(fewer, ten_fold_splits(fewer.labels, seed=0)[0])
  absent = ~train.where
  for column, modality in enumerate(train.modalities):
    rows = np.flatnonzero(absent[:, column])
    assert not train.inputs(modality, rows).any()


def test_subjects_are_selected_by_scan_and_rating_or_by_name(root):
  def change(people):
    people[0]["FILE_ID"] = "no_filename"
    people[1]["qc_func_rater_3"] = "fail"
    people[2]["qc_anat_rater_2"] = "maybe"

  everyone = read_abide(root, modalities=["phenotype"]).ids
  change_phenotype(root, change)
  usual = read_abide(root, modalities=["phenotype"])
  assert usual.ids == everyone[2:]
  assert noted(usual, f"{NUM_SUBJECTS - 2} subjects where the usual", "871")
  unrated = read_abide(root, modalities=["phenotype"], quality_checked=False)
  assert unrated.ids == everyone[1:]
  named = read_abide(root, modalities=["phenotype"], subjects=everyone[5:2:-1])
  assert named.ids == everyone[5:2:-1]
  for subjects in (["nobody"], [], [everyone[3]] * 2):
    with pytest.raises(ValueError, match="different FILE_IDs"):
      read_abide(root, subjects=subjects)


def test_undefined_regions_are_counted_over_all_subjects(root):
  folder = root / "cpac" / "filt_global"
  for path in sorted(folder.iterdir())[:3]:
    series = np.loadtxt(path)
    series[:, 3:] = 0
    write_series(path, series)
  tables = read_abide(root, modalities=["connectivity"])
  assert noted(tables, "6 regions of 3 subjects")
  assert np.isnan(tables.arrays["connectivity"]).sum() == 3 * 7
  assert tables.where.all()
  train, test = split_sources(
    tables, leave_site_out_splits(tables.sites)["NYU"]
  )
  for source in (train, test):
    values = source.inputs("connectivity", np.arange(len(source)))
    assert np.isfinite(values).all()


# Splits.


def test_every_site_is_tested_once_on_what_others_trained():
  sites = np.asarray(["b", "a", "b", "c", "a", "b"])
  splits = leave_site_out_splits(sites)
  assert list(splits) == ["a", "b", "c"]
  for name, split in splits.items():
    assert set(sites[split.test]) == {name}
    assert name not in sites[split.train]
    rows = np.sort(np.concatenate(split))
    np.testing.assert_array_equal(rows, np.arange(len(sites)))
  with pytest.raises(ValueError, match="at least two sites"):
    leave_site_out_splits(["a", "a"])


@pytest.mark.parametrize("seed", range(3))
def test_folds_partition_the_subjects_and_keep_the_classes_share(seed):
  rng = np.random.default_rng(seed)
  labels = (rng.random(173) < 0.46).astype(int)
  splits = ten_fold_splits(labels, seed=seed)
  tested = np.concatenate([split.test for split in splits])
  np.testing.assert_array_equal(np.sort(tested), np.arange(173))
  for split in splits:
    rows = np.sort(np.concatenate(split))
    np.testing.assert_array_equal(rows, np.arange(173))
  for counts in (
    [len(split.test) for split in splits],
    [labels[split.test].sum() for split in splits],
    [(1 - labels[split.test]).sum() for split in splits],
  ):
    assert max(counts) - min(counts) <= 1
  again = ten_fold_splits(labels, seed=seed)
  np.testing.assert_array_equal(splits[3].test, again[3].test)
  other = ten_fold_splits(labels, seed=seed + 1)
  assert splits[3].test.tolist() != other[3].test.tolist()


def test_too_few_subjects_for_ten_folds_is_an_error():
  with pytest.raises(ValueError, match="at least 10.*{0: 12, 1: 9}"):
    ten_fold_splits(np.repeat([0, 1], [12, 9]), seed=0)


# Sources.


def test_only_training_rows_set_the_scale(original):
  tables = read_abide(original, features=["FIQ", "VIQ", "SEX"])
  # Some test and some training rows lack a value.
  tables.arrays["structure"][::7, 0] = np.nan
  split = ten_fold_splits(tables.labels, seed=0)[4]
  train, test = split_sources(tables, split)
  for modality in tables.arrays:
    raw = tables.arrays[modality].astype(np.float64)
    for column in np.flatnonzero(tables.scaled[modality]):
      known = [v for v in raw[split.train, column] if not math.isnan(v)]
      if not known:
        continue  # VIQ, below
      mean = math.fsum(known) / len(known)
      std = math.sqrt(math.fsum((v - mean) ** 2 for v in known) / len(known))
      for source, rows in ((train, split.train), (test, split.test)):
        expected = np.nan_to_num((raw[rows, column] - mean) / std, nan=0.0)
        got = source.inputs(modality, np.arange(len(source)))[:, column]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
  # What only test subjects vary in says nothing about training.
  spoiled = tables.arrays["structure"].copy()
  spoiled[split.test] *= 1000
  arrays = {**tables.arrays, "structure": spoiled}
  again, _ = split_sources(tables._replace(arrays=arrays), split)
  rows = np.arange(len(train))
  np.testing.assert_array_equal(
    again.inputs("structure", rows), train.inputs("structure", rows)
  )


def test_columns_that_do_not_vary_in_training_are_zero_everywhere(original):
  tables = read_abide(
    original, modalities=["structure", "phenotype"], features=["FIQ", "VIQ"]
  )
  split = ten_fold_splits(tables.labels, seed=0)[0]
  tables.arrays["structure"][:, 0] = 7.7
  tables.arrays["structure"][split.test[0], 0] = 9000
  train, test = split_sources(tables, split)
  for source in (train, test):
    rows = np.arange(len(source))
    assert not source.inputs("structure", rows)[:, 0].any()
    names = tables.columns["phenotype"]
    values = source.inputs("phenotype", rows)
    assert not values[:, names.index("VIQ")].any()
    # Indicators keep their 0 and 1.
    assert (values[:, names.index("VIQ missing")] == 1).all()
  assert noted(train, "structure: 1 columns do not vary")
  assert noted(train, "phenotype: 1 columns do not vary")


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("fold", [0, "PITT"])
def test_what_was_planted_is_found_in_the_test_source(original, modality, fold):
  train, test = abide(original, fold=fold, seed=3, modalities=[modality])
  values = train.inputs(modality, np.arange(len(train)))
  centres = [values[train.labels == label].mean(axis=0) for label in (0, 1)]
  tested = test.inputs(modality, np.arange(len(test)))
  distances = [((tested - centre) ** 2).sum(axis=1) for centre in centres]
  guessed = np.argmin(distances, axis=0)
  assert np.mean(guessed == test.labels) >= 0.8


def test_sources_keep_labels_ids_and_notes(original):
  tables = read_abide(original)
  train, test = abide(original, fold="UM_1")
  assert train.modalities == MODALITIES
  assert set(train.ids) | set(test.ids) == set(range(NUM_SUBJECTS))
  assert not set(train.ids) & set(test.ids)
  for source in (train, test):
    np.testing.assert_array_equal(source.labels, tables.labels[source.ids])
    assert source.spec["connectivity"].shape == (10,)
    assert source.spec["connectivity"].dtype == np.float32
  assert set(tables.sites[test.ids]) == {"UM_1"}
  assert noted(test, "60 subjects of 3 sites, 30 with autism, 30 controls")
  with pytest.raises(ValueError, match="one of the sites.*got 'KKI'"):
    abide(original, fold="KKI")
  with pytest.raises(ValueError, match="from 0 to 9.*got 10"):
    abide(original, fold=10)


# Errors.


def test_files_that_are_missing_or_doubled_are_errors(root):
  with pytest.raises(ValueError, match="among.*got .'genome'"):
    read_abide(root, modalities=["genome"])
  series = root / "cpac" / "filt_global"
  shutil.copytree(series, root / "ccs")
  with pytest.raises(ValueError, match="one time series of 'NYU.*one pipeline"):
    read_abide(root)
  shutil.rmtree(root / "ccs")
  shutil.rmtree(series)
  with pytest.raises(FileNotFoundError, match="NYU_0050000_rois_ho.1D below"):
    read_abide(root)
  shutil.copytree(root / "freesurfer", root / "copy")
  with pytest.raises(ValueError, match="one file of each name"):
    read_abide(root, modalities=["structure"])
  shutil.rmtree(root / "copy")
  shutil.rmtree(root / "freesurfer")
  with pytest.raises(FileNotFoundError, match="aseg_table.tsv below"):
    read_abide(root, modalities=["structure"])
  (root / "Phenotypic_V1_0b_preprocessed1.csv").unlink()
  with pytest.raises(FileNotFoundError, match="Phenotypic_V1_0b"):
    read_abide(root, modalities=["phenotype"])


def test_regions_must_agree_between_subjects(root):
  path = sorted((root / "cpac" / "filt_global").iterdir())[-1]
  text = path.read_text().replace("#2001\t#2002", "#2002\t#2001")
  path.write_text(text)
  with pytest.raises(ValueError, match="5 regions of .* in another order"):
    read_abide(root, modalities=["connectivity"])


@pytest.mark.parametrize(
  "content,message",
  [
    ("FILE_ID lh_insula\nNYU_0050000 2.5\n", "tab-separated"),
    ("FILE_ID\tlh\nNYU_0050000\tthick\n", "numbers for 'NYU_0050000'.*thick"),
    ("FILE_ID\tlh\nNYU_0050000\t2\t3\n", "2 fields for .*got 3"),
    ("FILE_ID\tlh\n" + "NYU_0050000\t2\n" * 2, "several rows for"),
    ("FILE_ID\tlh\n50000\t2\n", r"none of the subjects.*\['50000'\]"),
  ],
)
def test_a_bad_table_is_an_error_that_names_the_file(root, content, message):
  path = root / "freesurfer" / "aseg_table.tsv"
  path.write_text(content)
  with pytest.raises(ValueError, match=message) as raised:
    read_abide(root, modalities=["structure"])
  assert str(path) in str(raised.value)


def test_a_bad_phenotype_file_is_an_error(root):
  def unknown(people):
    people[4]["DX_GROUP"] = "3"

  def doubled(people):
    people[4]["FILE_ID"] = people[5]["FILE_ID"]

  for change, message in [
    (unknown, "1 .autism. or 2 .control. in .*got '3'"),
    (doubled, "several rows for"),
  ]:
    change_phenotype(root, change)
    with pytest.raises(ValueError, match=message):
      read_abide(root, modalities=["phenotype"])
  (root / "Phenotypic_V1_0b_preprocessed1.csv").write_text("SITE_ID\nNYU\n")
  with pytest.raises(ValueError, match="without .'FILE_ID', 'DX_GROUP'"):
    read_abide(root, modalities=["phenotype"])


# The TFDS builder.


@pytest.mark.parametrize(
  ("config", "fold"), [("fold_3", 3), ("site_NYU", "NYU")]
)
def test_the_builder_stores_what_the_sources_hold(config, fold, root, tmp_path):
  (root / "cpac" / "filt_global" / "NYU_0050003_rois_ho.1D").unlink()
  (folder,) = builders.prepare(
    f"abide/{config}", raw_dir=root, data_dir=tmp_path / "out"
  )
  tables = read_abide(root)
  for split, source in zip(("train", "test"), abide(root, fold=fold)):
    rows = TfdsRows(folder, split)
    assert tuple(rows.kinds) == source.modalities
    assert rows.ids == [tables.ids[row] for row in source.ids]
    np.testing.assert_array_equal(rows.labels, source.labels)
    np.testing.assert_array_equal(rows.where, source.where)
    for column, modality in enumerate(source.modalities):
      values = source.inputs(modality, np.arange(len(source)))
      for row in np.flatnonzero(source.where[:, column]).tolist():
        np.testing.assert_array_equal(rows.value(row, modality), values[row])
