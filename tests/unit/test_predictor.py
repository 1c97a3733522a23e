from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.artifact import Artifact, save
from classifier.errors import ArtifactError
from classifier.features.matrix import feature_matrix
from classifier.model import ArmClassifier
from classifier.predictor import Predictor
from tests.outcomes import sums

QUICK = {"cs": (0.003, 0.03), "pulls": (10.0,), "lexical_scales": (1.0,), "rank": 16}
TABLE = sums(360)
TALKS = [list(item.messages) for item in sums(40, seed=8).items] + [
    [{"role": "user", "content": "Write a poem about the sea, in French, at most 12 lines."}],
    [{"role": "user", "content": "\x00\x01" * 300}],
    [{"role": "user", "content": ""}],
    [
        {"role": "system", "content": "Answer in JSON."},
        {"role": "user", "content": "What is 3 + 4?"},
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": "And with 44?"},
    ],
]


def trained(calibration: str) -> ArmClassifier:
    model = ArmClassifier(arms=TABLE.arms, calibration=calibration, **QUICK)
    x = feature_matrix([item.messages for item in TABLE.items])
    return model.fit(x, TABLE.scores, TABLE.tokens, TABLE.content_groups())


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "model"
    save(path, TABLE.arms, trained("platt").export(), {})
    return path


@pytest.fixture(scope="module")
def predictor(directory: Path) -> Predictor:
    return Predictor.load(directory)


@pytest.mark.parametrize("calibration", ["none", "platt", "isotonic"])
def test_serving_says_what_the_estimator_says(calibration: str) -> None:
    model = trained(calibration)
    predictor = Predictor(Artifact(TABLE.arms, model.export(), {}, "v"))
    x = feature_matrix(TALKS)
    p, novelty = model.predict_proba(x), model.novelty(x)
    tokens, high = model.predict_tokens(x)
    for i, talk in enumerate(TALKS):
        prediction = predictor.predict(talk)
        assert list(prediction.p) == list(TABLE.arms)
        np.testing.assert_allclose(list(prediction.p.values()), p[i], atol=1e-6)
        np.testing.assert_allclose(list(prediction.tokens.values()), tokens[i], rtol=1e-5)
        np.testing.assert_allclose(list(prediction.tokens_high.values()), high[i], rtol=1e-5)
        assert prediction.ood == pytest.approx(novelty[i], abs=1e-9)


def test_difficulty_is_that_of_the_cheapest_arm(predictor: Predictor) -> None:
    easy, hard = (
        predictor.predict([{"role": "user", "content": f"What is {s}?"}]) for s in ("3 + 4", "333 + 444")
    )
    assert easy.difficulty == pytest.approx(1.0 - easy.p["direct"])
    assert easy.difficulty < 0.4 < 0.7 < hard.difficulty
    assert easy.tokens["direct"] < easy.tokens["cot"] < easy.tokens["sc/n8"]
    assert all(easy.tokens[arm] <= easy.tokens_high[arm] for arm in easy.tokens)


def test_arms_and_version_come_from_the_artifact(predictor: Predictor) -> None:
    assert predictor.arms == TABLE.arms
    assert len(predictor.version) == 12
    assert predictor.predict(TALKS[0]).version == predictor.version


@given(
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()}
        ),
        max_size=4,
    )
)
@settings(max_examples=100, deadline=None)
def test_any_text_gets_probabilities(predictor: Predictor, messages: list[dict[str, str]]) -> None:
    prediction = predictor.predict(messages)
    assert all(0.0 < p < 1.0 for p in prediction.p.values())
    assert all(np.isfinite(t) and t > 0.0 for t in prediction.tokens_high.values())
    assert 0.0 <= prediction.ood <= 1.0
    assert 0.0 < prediction.difficulty < 1.0


@pytest.mark.parametrize("unit", ["1+", "\x00\xff", "9", "a b "])
def test_ten_megabytes_are_predicted_like_any_other(predictor: Predictor, unit: str) -> None:
    prediction = predictor.predict([{"role": "user", "content": unit * (10_000_000 // len(unit))}])
    assert prediction.ood > 0.0
    assert all(0.0 < p < 1.0 for p in prediction.p.values())


def test_a_prediction_is_frozen_and_travels(predictor: Predictor) -> None:
    prediction = predictor.predict(TALKS[0])
    with pytest.raises(FrozenInstanceError):
        prediction.ood = 0.0  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(prediction)) == prediction  # noqa: S301


def test_serving_imports_no_learning_library(directory: Path) -> None:
    program = (
        "import sys; from classifier.predictor import Predictor;"
        f"Predictor.load({str(directory)!r}).predict([{{'role': 'user', 'content': 'hi'}}]);"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'sklearn', 'scipy', 'torch', 'ray'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: f"  {text}",
        lambda text: f"{text}\n",
        lambda text: text.replace("What is", "what  is"),
        lambda text: text.replace("7", "8"),
    ],
)
def test_formatting_that_means_nothing_changes_little(
    predictor: Predictor, change: Callable[[str], str]
) -> None:
    text = "What is 57 + 73?"
    one, two = (predictor.predict([{"role": "user", "content": t}]).p for t in (text, change(text)))
    assert max(abs(one[arm] - two[arm]) for arm in one) < 0.15


def test_a_follow_up_is_as_hard_as_what_it_asks_in_the_end(predictor: Predictor) -> None:
    def difficulty(last: str) -> float:
        first = {"role": "user", "content": "What is 3 + 4?"}
        return predictor.predict(
            [first, {"role": "assistant", "content": "7"}, {"role": "user", "content": last}]
        ).difficulty

    assert difficulty("What is 333 + 444?") > difficulty("What is 5 + 2?") + 0.1


def test_a_missing_artifact_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere"):
        Predictor.load(tmp_path / "nowhere")
