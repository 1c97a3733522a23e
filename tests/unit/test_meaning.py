"""The opinion of a sentence encoder: fitted, saved, served as fitted, batched, refused where it is not."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.serve import batching
from scipy import sparse
from typer.testing import CliRunner

from classifier import meaning as meaning_of
from classifier import predictor as serving
from classifier.arrays import from_arrays, to_arrays
from classifier.artifact import Artifact, load, save
from classifier.calibration import brier
from classifier.deployment import ClassifierDeployment, predict_together
from classifier.encoded import Encoded, apart, encode
from classifier.encoder import HashingEncoder, MiniLmEncoder, Vector, minilm_folder
from classifier.errors import ArtifactCorrupt, ArtifactIncompatible
from classifier.evaluation.study import study
from classifier.features import COUNT, WIDTH
from classifier.features.matrix import feature_matrix
from classifier.forward import Meaning
from classifier.meaning import encoder_for
from classifier.model import ArmClassifier
from classifier.packed import pack, unpack
from classifier.predictor import Predictor
from classifier.recalibrate import recalibrate
from classifier.tables import OutcomeTable
from classifier.train import train
from router.assembly import LocalClassifier
from router.cli.main import app
from router.config import AppConfig
from router.preflight import check_files
from router.startup import StartupError
from tests.outcomes import sums

TABLE = sums(120)
TOLD = [item.messages for item in TABLE.items]
PLAIN: dict[str, Any] = {"cs": (0.01,), "pulls": (10.0,), "lexical_scales": (1.0,), "one_class": "rate"}


class Counting(HashingEncoder):
    """Hashes, and counts; two at a time would be one too many."""

    def __init__(self, dimensions: int = 256) -> None:
        super().__init__(dimensions)
        self.calls: list[int] = []
        self._busy = threading.Lock()

    def encode(self, texts: Sequence[str]) -> list[Vector | None]:
        assert self._busy.acquire(blocking=False)
        self.calls.append(len(texts))
        found = super().encode(texts)
        self._busy.release()
        return found


def fitted(table: OutcomeTable = TABLE) -> tuple[ArmClassifier, Encoded, sparse.csr_matrix]:
    encoded = encode([item.messages for item in table.items], HashingEncoder())
    x = encoded.beside(feature_matrix([item.messages for item in table.items]))
    return ArmClassifier(arms=table.arms, **PLAIN).fit(x, table.scores, table.tokens), encoded, x


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, encoded, _ = fitted()
    weights = model.export()
    where = tmp_path_factory.mktemp("with") / "meaning"
    save(where, TABLE.arms, replace(weights, meaning=encoded.named(weights.meaning)), {})
    return where


@pytest.fixture(scope="module")
def artifact(folder: Path) -> Artifact:
    return load(folder)


def probabilities(predictor: Predictor, conversations: Sequence[Sequence[Mapping[str, str]]]) -> np.ndarray:
    return np.array([list(told.p.values()) for told in predictor.predict_all(conversations)])


# -- the fit


def test_it_helps_where_only_the_vectors_tell() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(600, 12))
    scores = (rng.random((600, 2)) < 1 / (1 + np.exp(-2.5 * vectors[:, :2]))).astype(float)
    same = feature_matrix([[{"role": "user", "content": f"What of it {i % 7}?"}] for i in range(600)])
    x = Encoded("e", "", vectors).beside(same)
    loss = {}
    for name, columns in (("without", same), ("with", x)):
        model = ArmClassifier(**PLAIN).fit(columns[:400], scores[:400])
        loss[name] = brier(model.predict_proba(columns[400:]).ravel(), scores[400:].ravel())
    assert loss["with"] < 0.8 * loss["without"]


def test_vectors_of_noise_do_little_harm() -> None:
    rng = np.random.default_rng(0)
    x = feature_matrix(TOLD)
    beside = Encoded("e", "", rng.normal(size=(len(TOLD), 64))).beside(x)
    p = [
        ArmClassifier(**PLAIN).fit(each, TABLE.scores, TABLE.tokens).predict_proba(each)
        for each in (x, beside)
    ]
    assert np.abs(p[0] - p[1]).mean() < 0.05


def test_an_opinion_that_weighs_nothing_is_not_asked() -> None:
    model, _, _ = fitted()
    assert model.meaning_ is not None
    stack = replace(model.meaning_.stack, common=np.array([1.0, 0.0]), apart=np.array([1.0, 0.0]))
    model.meaning_ = replace(model.meaning_, stack=stack)
    assert model.export().meaning is None


def test_no_vector_is_an_average_one() -> None:
    model, _, x = fitted()
    bare, vectors = apart(x)
    assert vectors is not None
    assert bare.shape[1] == COUNT + WIDTH
    zeros = Encoded("", "", np.zeros_like(vectors)).beside(bare)
    assert model.predict_proba(bare) == pytest.approx(model.predict_proba(zeros))
    assert model.meaning_ is not None
    mean = np.tile(model.meaning_.own.mean, (len(TOLD), 1))
    assert model.predict_proba(bare) == pytest.approx(model.predict_proba(Encoded("", "", mean).beside(bare)))


def test_without_vectors_nothing_is_different() -> None:
    x = feature_matrix(TOLD)
    model = ArmClassifier(**PLAIN).fit(x, TABLE.scores, TABLE.tokens)
    assert model.meaning_ is None
    assert model.export().meaning is None
    assert apart(x)[1] is None


# -- saved and served


def test_it_is_served_as_it_was_fitted(artifact: Artifact) -> None:
    model, _, x = fitted()
    served = probabilities(Predictor(artifact, HashingEncoder()), TOLD)
    assert served == pytest.approx(model.predict_proba(x), abs=1e-5)
    assert not np.allclose(served, model.predict_proba(apart(x)[0]), atol=1e-3)


def test_one_prompt_is_predicted_as_among_many(artifact: Artifact) -> None:
    predictor = Predictor(artifact, HashingEncoder())
    odd = [[{"role": "user", "content": text}] for text in ("", "???", "word " * 20_000)]
    for messages, told in zip(TOLD[:5] + odd, predictor.predict_all(TOLD[:5] + odd), strict=True):
        assert predictor.predict(messages) == told


def test_an_artifact_without_the_opinion_asks_no_encoder() -> None:
    counting = Counting()
    predictor = Predictor(load(serving.DEFAULT_ARTIFACT), counting)
    predictor.predict(TOLD[0])
    assert not predictor.encodes
    assert counting.calls == []


@pytest.mark.parametrize("encoder", [HashingEncoder(128), None])
def test_another_encoder_is_refused_in_one_sentence(
    artifact: Artifact, encoder: HashingEncoder | None
) -> None:
    with pytest.raises(ArtifactIncompatible, match="train it again") as refused:
        Predictor(artifact, encoder)
    assert len(str(refused.value).splitlines()) == 1


def test_without_the_extra_it_is_refused_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meaning_of, "minilm_folder", lambda: None)
    asks = Meaning(MiniLmEncoder.name, "0" * 64, np.zeros(2), np.zeros((2, 1)))
    with pytest.raises(ArtifactIncompatible, match=r"pip install 'adaptive-compute-router\[semantic\]'"):
        encoder_for(asks)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("meaning_digest", np.zeros(31, dtype=np.int64)),
        ("meaning_encoder", np.array([300], dtype=np.int64)),
        ("meaning_mean", np.zeros(3)),
        ("meaning_weights", np.full((256, len(TABLE.arms)), np.nan)),
    ],
)
def test_damaged_arrays_are_refused(artifact: Artifact, name: str, value: np.ndarray) -> None:
    arrays = {**to_arrays(artifact.weights), name: value}
    with pytest.raises(ArtifactCorrupt, match=name):
        from_arrays(arrays, len(TABLE.arms))


def test_calibrating_keeps_the_opinion(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meaning_of, "installed_encoder", HashingEncoder)
    monkeypatch.setattr(meaning_of, "minilm_folder", lambda: Path())
    monkeypatch.setattr(MiniLmEncoder, "name", HashingEncoder.name)
    recalibrate(artifact, sums(80, seed=5), tmp_path / "put-right", 0, "2026-01-01")
    kept = load(tmp_path / "put-right").weights.meaning
    assert kept is not None
    assert kept.digest == HashingEncoder().digest()


# -- at the commands


def test_training_twice_gives_the_same_files_and_names_the_encoder(tmp_path: Path) -> None:
    encoded = encode(TOLD, HashingEncoder())
    versions = {train(TABLE, tmp_path / name, 0, "2026-01-01", encoded).version for name in ("a", "b")}
    assert len(versions) == 1
    found = load(tmp_path / "a")
    assert found.weights.meaning is not None
    assert (found.weights.meaning.encoder, found.weights.meaning.digest) == ("hashing-1", encoded.digest)
    assert found.card["encoder"]["sha256"] == encoded.digest
    assert train(TABLE, tmp_path / "c", 0, "2026-01-01").version not in versions


def test_progress_is_told_prompt_by_prompt() -> None:
    heard: list[int] = []
    encoded = encode(TOLD, HashingEncoder(), heard.append)
    assert sum(heard) == len(TOLD) == len(encoded.vectors)
    assert len(heard) > 1


def test_acr_train_without_the_extra_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meaning_of, "minilm_folder", lambda: None)
    table = Path(__file__).parents[2] / "benchmarks/data/smollm2_135m.jsonl"
    told = CliRunner().invoke(app, ["train", str(table), "--out", str(tmp_path / "x"), "--embedding"])
    assert told.exit_code == 2
    assert "semantic" in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_evaluating_says_that_it_repeats_the_training_without_the_opinion(artifact: Artifact) -> None:
    bare = replace(artifact, weights=replace(artifact.weights, meaning=None, seen=TABLE.fingerprints()))
    seen = replace(artifact, weights=replace(artifact.weights, seen=np.unique(TABLE.fingerprints())))
    assert any("without the classifier's sentence embedding" in note for note in study(seen, TABLE).notes)
    assert not any("embedding" in note for note in study(bare, TABLE).notes)


# -- in the service


def deployed(
    artifact: Artifact, encoder: HashingEncoder, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> Any:
    monkeypatch.setattr(serving, "encoder_for", lambda meaning, _: encoder_for(meaning, encoder))
    # the one thing in it that asks the replica around it
    monkeypatch.setattr(
        batching._BatchQueue, "_warn_if_max_batch_size_exceeds_max_ongoing_requests", lambda self: None
    )
    return ClassifierDeployment.func_or_class(str(folder))


async def test_prompts_at_the_same_time_go_through_the_encoder_together(
    artifact: Artifact, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Counting()
    deployment = deployed(artifact, encoder, monkeypatch, folder)
    encoder.calls.clear()
    told = await asyncio.gather(*(deployment.predict(messages) for messages in TOLD[:40]))
    assert sum(encoder.calls) == 40
    assert len(encoder.calls) < 20
    alone = Predictor(artifact, HashingEncoder())
    assert list(told) == [alone.predict(messages) for messages in TOLD[:40]]
    await deployment.check_health()


def test_a_batch_while_the_artifact_changes_keeps_each_prompts_own(artifact: Artifact) -> None:
    one = Predictor(artifact, HashingEncoder())
    two = Predictor(replace(artifact, version="another"), HashingEncoder())
    told = predict_together([(one, TOLD[0]), (two, TOLD[1]), (one, TOLD[2])])
    assert [each.version for each in told] == [artifact.version, "another", artifact.version]
    assert told == [one.predict(TOLD[0]), two.predict(TOLD[1]), one.predict(TOLD[2])]


async def test_a_new_artifact_whose_encoder_is_missing_is_not_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = ClassifierDeployment.func_or_class(None)
    before = await deployment.version()
    with caplog.at_level(logging.ERROR):
        await deployment.reconfigure({"artifact": str(folder)})
    assert await deployment.version() == before
    assert "not installed" in caplog.text
    with pytest.raises(ArtifactIncompatible):
        ClassifierDeployment.func_or_class(str(folder))


def test_the_service_does_not_start_where_its_encoder_is_missing(folder: Path) -> None:
    tier = {"engine": {"kind": "fake"}, "hardware": "CPU", "shape": "SmolLM2-135M-Instruct"}
    tiers = dict.fromkeys(("direct", "consistency", "search"), tier)
    config = AppConfig.model_validate({"tiers": tiers, "classifier": {"artifact": str(folder)}})
    with pytest.raises(StartupError, match="not installed") as refused:
        check_files(config)
    assert len(str(refused.value).splitlines()) == 1


async def test_in_the_ingress_one_prompt_is_encoded_at_a_time(artifact: Artifact) -> None:
    encoder = Counting()
    local = LocalClassifier(Predictor(artifact, encoder))
    told = await asyncio.gather(*(local.predict(list(messages)) for messages in TOLD[:8]))
    assert encoder.calls == [1] * 8
    assert [each.p for each in told] == [Predictor(artifact, encoder).predict(m).p for m in TOLD[:8]]


def test_it_is_published_whole(folder: Path) -> None:
    whole = pack(folder)
    assert unpack(whole.text, whole.artifact.version).artifact.weights.meaning is not None


# -- the encoder that is shipped


@pytest.mark.skipif(minilm_folder() is None, reason="the extra `semantic` is not installed")
def test_the_installed_encoder_is_told_from_others_by_its_weights() -> None:
    model, _, _ = fitted()
    said = model.export().meaning
    assert said is not None
    mine = replace(said, encoder=MiniLmEncoder.name, digest=MiniLmEncoder().digest())
    assert isinstance(encoder_for(mine), MiniLmEncoder)
    with pytest.raises(ArtifactIncompatible, match="other weights"):
        encoder_for(replace(mine, digest="0" * 64))
