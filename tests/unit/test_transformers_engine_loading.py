"""Where the transformers engine's model comes from, its unpacked copies, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from backends.engines.build import EngineConfig
from backends.engines.config import TransformersConfig
from backends.engines.transformers import converted, loading
from backends.engines.transformers.engine import TransformersEngine
from backends.engines.transformers.loading import load
from backends.errors import ModelFileError
from tests.tiny_model import CONTEXT, save_tiny_model

ADAPTER: TypeAdapter[Any] = TypeAdapter(EngineConfig)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")


def config_of(model: Path | str, **fields: Any) -> TransformersConfig:
    plain = {"model": str(model), "context_tokens": CONTEXT, "device": "cpu"}
    return TransformersConfig.model_validate({**plain, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"model": ""},
        {"device": "tpu"},
        {"device": "cuda:x"},
        {"dtype": "int4"},
        {"attention": "eager"},
        {"parallel": 0},
        {"context_tokens": 8},
        {"cache_blocks": 256},
        {"step_tokens": 4},
        {"stall_timeout_s": 0},
        {"trust_remote_code": True},
    ],
)
def test_mistakes_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python({"kind": "transformers", **fields})


def test_the_kind_chooses_it_and_it_survives_json() -> None:
    config = ADAPTER.validate_python({"kind": "transformers", "model": "org/model", "device": "cuda:1"})
    assert isinstance(config, TransformersConfig)
    assert ADAPTER.validate_json(config.model_dump_json()) == config


def test_a_model_is_named_without_the_way_to_it(folder: Path) -> None:
    def named(**fields: Any) -> str:
        return TransformersEngine(TransformersConfig(**fields)).info.model

    assert named() == "SmolLM2-135M-Instruct"
    assert named(model="org/model") == "org/model"
    assert named(model=str(folder)) == "tiny-llama"
    assert named(model="/models/small.Q8_0.gguf") == "small.Q8_0"
    assert named(model="org/model", served_model_name="ours") == "ours"


def test_a_folder_is_read_as_asked(folder: Path) -> None:
    loaded = load(config_of(folder, dtype="bfloat16"))
    assert (loaded.device, loaded.dtype, loaded.attention) == ("cpu", "bfloat16", "sdpa")
    assert loaded.quantisation == "none"
    assert loaded.model.dtype is torch.bfloat16
    assert not loaded.model.training
    assert loaded.ends == frozenset()


@pytest.mark.parametrize(
    ("able", "dtype"),
    [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({"avx2": True}, "float32")],
)
def test_the_dtype_follows_the_cpu(
    able: dict[str, bool], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert loading._dtype("auto", "cpu") == dtype
    assert loading._dtype("auto", "cuda") == "bfloat16"
    assert loading._dtype("float16", "cpu") == "float16"


@pytest.mark.parametrize(
    ("three", "two", "device", "chosen"),
    [
        (True, True, "cuda", "flash_attention_3"),
        (False, True, "cuda:1", "flash_attention_2"),
        (False, False, "cuda", "sdpa"),
        (True, True, "cpu", "sdpa"),
    ],
)
def test_flash_attention_is_taken_where_it_is_there(
    three: bool, two: bool, device: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import import_utils

    monkeypatch.setattr(import_utils, "is_flash_attn_3_available", lambda: three)
    monkeypatch.setattr(import_utils, "is_flash_attn_2_available", lambda: two)
    assert loading._attention("auto", device) == chosen
    assert loading._attention("sdpa", device) == "sdpa"


def test_a_gpu_that_is_not_there_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelFileError, match="no GPU for device cuda:1"):
        load(config_of(folder, device="cuda:1"))
    assert loading._device("auto") == "cpu"


def test_what_cannot_be_used_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="holds 256 tokens"):
        load(config_of(folder, context_tokens=CONTEXT + 1))
    with pytest.raises(ModelFileError, match="no chat template"):
        load(config_of(save_tiny_model(tmp_path / "base", template=None)))
    with pytest.raises(ModelFileError, match="no model file at"):
        load(config_of(tmp_path / "missing.gguf"))
    with pytest.raises(ModelFileError, match="could not load"):
        load(config_of(tmp_path / "missing"))


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    damaged = save_tiny_model(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ModelFileError, match="could not load"):
        load(config_of(damaged))
    no_gguf = tmp_path / "no.gguf"
    no_gguf.write_bytes(b"GGUF?")
    with pytest.raises(ModelFileError, match="could not load"):
        load(config_of(no_gguf, keep_unpacked=False))


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    hostile = save_tiny_model(tmp_path / "hostile")
    config = (hostile / "config.json").read_text()
    ran = tmp_path / "ran"
    (hostile / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    auto = '"auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"},'
    (hostile / "config.json").write_text(
        config.replace("{", "{" + auto, 1).replace('"model_type": "llama"', '"model_type": "evil"')
    )
    with pytest.raises(ModelFileError, match="could not load"):
        load(config_of(hostile))
    assert not ran.exists()


class FakeGGUF:
    """Stands for transformers' slow reading of a GGUF file: the tiny model, and how often it was read."""

    def __init__(self, folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads = 0
        plain = loading._read_pretrained

        def read(source: str, options: dict[str, Any], **where: Any) -> tuple[Any, Any]:
            if where.get("gguf_file") == path.name:
                self.reads += 1
                assert options["quantization_config"].dequantize
                options = {name: option for name, option in options.items() if name != "quantization_config"}
                return plain(str(folder), options)
            return plain(source, options, **where)

        monkeypatch.setattr(loading, "_read_pretrained", read)
        monkeypatch.setattr(converted, "quantisation", lambda _: "Q4_1")


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACR_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "tiny.Q4_1.gguf"
    path.write_bytes(b"weights")
    return path


def test_a_gguf_file_is_unpacked_once(folder: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeGGUF(folder, gguf, monkeypatch)
    first = load(config_of(gguf, dtype="float32"))
    second = load(config_of(gguf, dtype="float32"))
    assert fake.reads == 1
    assert first.quantisation == second.quantisation == "Q4_1"
    for name, weights in first.model.state_dict().items():
        assert torch.equal(weights, second.model.state_dict()[name])
    assert second.tokenizer.chat_template == first.tokenizer.chat_template
    load(config_of(gguf, dtype="bfloat16"))
    assert fake.reads == 2
    gguf.write_bytes(b"other weights")
    load(config_of(gguf, dtype="float32"))
    assert fake.reads == 3


def test_no_copy_is_kept_where_none_is_wanted(
    folder: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeGGUF(folder, gguf, monkeypatch)
    for _ in range(2):
        load(config_of(gguf, keep_unpacked=False))
    assert fake.reads == 2
    assert not (gguf.parent / "cache").exists()


def test_a_full_disk_costs_the_copy_and_not_the_start(
    folder: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    FakeGGUF(folder, gguf, monkeypatch)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(converted.os, "replace", full)
    assert load(config_of(gguf)).quantisation == "Q4_1"
    assert "No space left" in caplog.text
    assert list((gguf.parent / "cache" / "unpacked").iterdir()) == []


def test_two_processes_may_unpack_at_once(
    folder: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    FakeGGUF(folder, gguf, monkeypatch)
    replace = converted.os.replace

    def late(made: Path, target: Path) -> None:
        target.mkdir()
        (target / "of-the-other").touch()
        replace(made, target)

    monkeypatch.setattr(converted.os, "replace", late)
    load(config_of(gguf))
    assert caplog.text == ""


def test_torch_is_imported_when_an_engine_starts_and_no_sooner() -> None:
    code = (
        "import sys\n"
        "from backends.engines.build import build_engine\n"
        "from backends.engines.config import TransformersConfig\n"
        "assert build_engine(TransformersConfig()).info.model == 'SmolLM2-135M-Instruct'\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
