from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from classifier.arrays import from_arrays, to_arrays
from classifier.artifact import CARD, MANIFEST, WEIGHTS, load, save
from classifier.calibration import Calibrator
from classifier.errors import ArtifactCorrupt, ArtifactError, ArtifactForbidden, ArtifactIncompatible
from classifier.features import COUNT, WIDTH
from classifier.features.expand import EXPANDED
from classifier.features.lexical import WORD_BUCKETS
from classifier.forward import KNOWN, UNKNOWN, Head, Novelty, TokenHead, Weights

ARMS = ("a/sc4", "a/sc16", "naïve ✓")
RAMPS = "novelty_ramps"


def some_weights(seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    curve = Calibrator("isotonic", 1.0, 0.0, np.array([-1.0, 0.0, 2.0]), np.array([0.1, 0.4, 0.9]))
    line = Calibrator("platt", 0.7, -0.2, np.empty(0), np.empty(0))
    return Weights(
        mean=rng.normal(size=EXPANDED),
        inverse=rng.random(EXPANDED),
        structural=rng.normal(size=(EXPANDED, 6)),
        lexical=rng.normal(size=(WIDTH, 6)).astype(np.float32),
        intercept=rng.normal(size=6),
        typical_tokens=np.array([30.0, 120.0, 10.0]),
        head=Head(
            (curve, line, line),
            rng.random(3),
            rng.random(3),
            np.full(3, 0.01),
            distrust=0.5,
            ladders=((0, 1),),
        ),
        token_head=TokenHead(np.zeros(3), np.full(3, 9.0), np.ones(3), np.full(3, 2.0)),
        novelty=Novelty(
            mean=rng.normal(size=COUNT),
            inverse=rng.random(COUNT),
            prototypes=rng.normal(size=(2, COUNT)),
            radii=np.ones(2),
            rare=rng.random(WORD_BUCKETS) < 0.5,
            rare_limit=0.25,
        ),
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(tmp_path / "model", ARMS, some_weights(), {"date": "2020-01-01"})
    return tmp_path / "model"


def resign(directory: Path) -> None:
    """Make the manifest agree again, as one who edits on purpose would."""
    digests = {n: hashlib.sha256((directory / n).read_bytes()).hexdigest() for n in (WEIGHTS, CARD)}
    (directory / MANIFEST).write_text(json.dumps({"format": 1, "files": digests}))


def rewrite(directory: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    with np.load(directory / WEIGHTS) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(directory / WEIGHTS, **arrays)
    resign(directory)


def test_what_is_saved_is_loaded(saved: Path) -> None:
    artifact = load(saved)
    assert artifact.arms == ARMS
    assert artifact.card["date"] == "2020-01-01"
    assert artifact.weights.head.ladders == ((0, 1),)
    expected, found = to_arrays(some_weights()), to_arrays(artifact.weights)
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(expected[name], found[name], err_msg=name)
    assert sorted(p.name for p in saved.iterdir()) == sorted([WEIGHTS, CARD, MANIFEST])


def test_no_array_holds_objects() -> None:
    assert {array.dtype.kind for array in to_arrays(some_weights()).values()} == {"f", "i"}


def test_the_same_content_has_the_same_version_and_bytes(tmp_path: Path) -> None:
    versions = [save(tmp_path / n, ARMS, some_weights(), {"date": "2020-01-01"}) for n in ("one", "two")]
    assert versions[0] == versions[1] == load(tmp_path / "one").version
    assert (tmp_path / "one" / WEIGHTS).read_bytes() == (tmp_path / "two" / WEIGHTS).read_bytes()
    assert save(tmp_path / "two", ARMS, some_weights(1), {"date": "2020-01-01"}) != versions[0]
    assert save(tmp_path / "two", ARMS, some_weights(), {"date": "2020-01-02"}) != versions[0]


def test_saving_again_replaces_and_leaves_nothing_behind(saved: Path) -> None:
    version = save(saved, ARMS, some_weights(7), {})
    assert load(saved).version == version
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_figures_that_are_not_defined_become_null(tmp_path: Path) -> None:
    card = {"metrics": {"brier": float("nan"), "rows": [float("inf"), 0.5, {"x": (1, None)}]}}
    save(tmp_path / "m", ARMS, some_weights(), card)
    metrics = {"brier": None, "rows": [None, 0.5, {"x": [1, None]}]}
    assert json.loads((tmp_path / "m" / CARD).read_text())["metrics"] == metrics


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
@pytest.mark.parametrize("where", [0.0, 0.3, 0.7, 1.0])
def test_one_changed_byte_is_detected(saved: Path, name: str, where: float) -> None:
    data = bytearray((saved / name).read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    (saved / name).write_bytes(bytes(data))
    with pytest.raises(ArtifactCorrupt, match=name):
        load(saved)


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"{}", b'{"files": {"weights.npz": "0"}}', b'{"files": []}']
)
def test_a_manifest_that_says_too_little(saved: Path, content: bytes) -> None:
    (saved / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactCorrupt, match=MANIFEST):
        load(saved)


@pytest.mark.parametrize("name", [WEIGHTS, CARD, MANIFEST])
def test_a_missing_file(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ArtifactCorrupt, match=name):
        load(saved)


@pytest.mark.parametrize("name", ["model.pkl", "MODEL.PKL", "x.pickle", "x.joblib", "x.pt", "model.bin"])
def test_pickles_are_refused_unread(saved: Path, name: str) -> None:
    (saved / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ArtifactForbidden, match="run code"):
        load(saved)


def test_a_pickle_inside_the_npz_is_refused_unread(saved: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, ("raise SystemExit('a pickle was run')",)

    rewrite(saved, lambda arrays: arrays.update(mean=np.array([Bomb()], dtype=object)))
    with pytest.raises(ArtifactCorrupt, match="plain npz"):
        load(saved)


def test_symlinks_folders_and_strangers_are_refused(saved: Path, tmp_path: Path) -> None:
    (saved / "notes.txt").write_text("hello")
    with pytest.raises(ArtifactForbidden, match="not listed"):
        load(saved)
    (saved / "notes.txt").unlink()
    (saved / "sub").mkdir()
    with pytest.raises(ArtifactForbidden, match="plain file"):
        load(saved)
    (saved / "sub").rmdir()
    (saved / CARD).rename(tmp_path / "elsewhere.json")
    (saved / CARD).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ArtifactForbidden, match="plain file"):
        load(saved)


@pytest.mark.parametrize(("key", "value"), [("feature_version", 0), ("feature_version", None), ("format", 2)])
def test_another_format_or_other_features(saved: Path, key: str, value: object) -> None:
    card = json.loads((saved / CARD).read_text())
    (saved / CARD).write_text(json.dumps({**card, key: value}))
    resign(saved)
    with pytest.raises(ArtifactIncompatible, match=f"{key}.*train it again"):
        load(saved)


@pytest.mark.parametrize("arms", [None, [], ["a", "a", "b"], ["a", 3, "b"], ["a", "", "b"], ["a", "b"]])
def test_arms_that_do_not_fit(saved: Path, arms: object) -> None:
    card = json.loads((saved / CARD).read_text())
    (saved / CARD).write_text(json.dumps({**card, "arms": arms}))
    resign(saved)
    with pytest.raises(ArtifactCorrupt):
        load(saved)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["lexical", "structural", "head_base", "novelty_radii", "head_knots"])
def test_weights_that_are_not_finite(saved: Path, name: str, bad: float) -> None:
    rewrite(saved, lambda arrays: arrays[name].flat.__setitem__(0, bad))
    with pytest.raises(ArtifactCorrupt, match=name):
        load(saved)


def test_weights_that_are_not_finite_are_not_saved_either(tmp_path: Path) -> None:
    broken = replace(some_weights(), intercept=np.full(6, np.nan))
    with pytest.raises(ArtifactCorrupt, match="intercept"):
        save(tmp_path / "m", ARMS, broken, {})
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("name", sorted(to_arrays(some_weights())))
def test_every_array_is_needed_and_has_one_shape(name: str) -> None:
    arrays = to_arrays(some_weights())
    without = {k: v for k, v in arrays.items() if k != name}
    for changed in (
        *([without] if name != RAMPS else []),
        {**arrays, name: np.zeros((*arrays[name].shape, 2), dtype=arrays[name].dtype)},
        {**arrays, name: arrays[name].astype("U8")},
    ):
        with pytest.raises(ArtifactCorrupt, match="train the classifier again"):
            from_arrays(changed, 3)


def test_an_artifact_from_before_ramps_were_learnt_has_the_fixed_ones() -> None:
    learnt = replace(some_weights().novelty, known=1.0, unknown=1.5, rare_to=0.25)
    arrays = to_arrays(replace(some_weights(), novelty=learnt))
    found = from_arrays(arrays, 3).novelty
    assert (found.known, found.unknown, found.rare_to) == (1.0, 1.5, 0.25)
    del arrays[RAMPS]
    old = from_arrays(arrays, 3).novelty
    assert (old.known, old.unknown, old.rare_to) == (KNOWN, UNKNOWN, 1.0)


@pytest.mark.parametrize("ramps", [(2.0, 2.0, 1.0), (3.0, 2.0, 1.0), (1.0, 2.0, 0.0), (-1.0, 2.0, 1.0)])
def test_a_ramp_that_does_not_rise(ramps: tuple[float, float, float]) -> None:
    with pytest.raises(ArtifactCorrupt, match=RAMPS):
        from_arrays({**to_arrays(some_weights()), RAMPS: np.array(ramps)}, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("head_trust", 1.5),
        ("head_base", -0.1),
        ("head_knot_count", 99),
        ("head_ladders", 3),
        ("head_method", 4),
    ],
)
def test_numbers_out_of_range(name: str, value: float) -> None:
    arrays = to_arrays(some_weights())
    arrays[name] = arrays[name].copy()
    arrays[name].flat[0] = value
    with pytest.raises(ArtifactCorrupt, match=name):
        from_arrays(arrays, 3)


def test_an_array_too_many() -> None:
    with pytest.raises(ArtifactCorrupt, match="payload"):
        from_arrays({**to_arrays(some_weights()), "payload": np.zeros(1)}, 3)


def test_a_zip_bomb_is_refused_before_it_unpacks(saved: Path) -> None:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("mean.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(257):
            member.write(bytes(2**20))
    (saved / WEIGHTS).write_bytes(buffer.getvalue())
    resign(saved)
    with pytest.raises(ArtifactForbidden, match="unpacks"):
        load(saved)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 broken"])
def test_a_file_that_is_no_npz(saved: Path, content: bytes) -> None:
    (saved / WEIGHTS).write_bytes(content)
    resign(saved)
    with pytest.raises(ArtifactCorrupt, match="npz"):
        load(saved)


def test_no_artifact_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="acr train"):
        load(tmp_path / "nothing")


def test_other_files_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match="other files"):
        save(tmp_path, ARMS, some_weights(), {})
    with pytest.raises(ArtifactError, match="not a directory"):
        save(tmp_path / "thesis.tex", ARMS, some_weights(), {})
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        save(tmp_path / "file" / "model", ARMS, some_weights(), {})


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save(tmp_path / "model", ARMS, some_weights(), {})
    assert load(tmp_path / "model").arms == ARMS
