"""Data sheets: what an accelerator can do, and what a model asks of it.

Sources. L4: NVIDIA L4 product page (24 GB GDDR6, 300 GB/s, 121 TFLOPS bf16 dense). H100: NVIDIA H100 SXM data
sheet (80 GB HBM3, 3.35 TB/s, 989 TFLOPS bf16 dense). H200: NVIDIA H200 data sheet (141 GB HBM3e, 4.8 TB/s,
989 TFLOPS bf16 dense). CPU: llama.cpp with SmolLM2-135M Q4_1 on two shared cores, measured for this project
(prefill 250 tokens/s and decode 75 tokens/s, from which the two rates follow). There 8 sequences decoded
together gave 56 tokens/s in all where one alone gave 50: sharing a step saves next to nothing.
Model shapes: the `config.json` of the published models.

Prices are round numbers of the size that on-demand clouds ask for. They are placeholders: set your own with
`dataclasses.replace(H100, usd_per_hour=...)` or the `usd_per_hour` argument of `cost`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Hardware:
    """One accelerator (or the CPU): memory in bytes, bandwidth in bytes/s, dense bf16 FLOP/s, USD an hour.

    `usd_per_hour` is NaN where nobody knows: then nothing is billed in money, and no budget in money pays.
    `shares_steps`: sequences decoded together share the reading of the weights.
    """

    name: str
    memory_bytes: float
    bandwidth_bytes_per_s: float
    peak_flops_per_s: float
    usd_per_hour: float
    shares_steps: bool = True


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a model costs a token.

    `active_parameters` is N of 2N FLOPs; `weight_bytes` is what every decode step reads; `hidden` is heads
    times head size; keys and values are held in `kv_bytes_each` bytes a number.
    """

    name: str
    active_parameters: int
    layers: int
    hidden: int
    kv_heads: int
    head_size: int
    weight_bytes: float
    kv_bytes_each: int = 2

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of all layers: 2 L n_kv d bytes."""
        return 2 * self.layers * self.kv_heads * self.head_size * self.kv_bytes_each


L4 = Hardware("L4", 24e9, 300e9, 121e12, usd_per_hour=0.80)
H100 = Hardware("H100", 80e9, 3.35e12, 989e12, usd_per_hour=3.00)
H200 = Hardware("H200", 141e9, 4.8e12, 989e12, usd_per_hour=4.00)
CPU = Hardware("CPU", 24e9, 10e9, 0.07e12, usd_per_hour=0.10, shares_steps=False)

HARDWARE: Mapping[str, Hardware] = MappingProxyType({sheet.name: sheet for sheet in (L4, H100, H200, CPU)})

SMOLLM2_135M = ModelShape(
    "SmolLM2-135M-Instruct",
    active_parameters=134_515_008,
    layers=30,
    hidden=576,
    kv_heads=3,
    head_size=64,
    weight_bytes=98_362_432,  # Q4_1, the file's size
)
LLAMA3_8B = ModelShape(
    "Llama-3-8B",
    active_parameters=8_030_261_248,
    layers=32,
    hidden=4096,
    kv_heads=8,
    head_size=128,
    weight_bytes=2 * 8_030_261_248,
)
LLAMA3_70B = ModelShape(
    "Llama-3-70B",
    active_parameters=70_553_706_496,
    layers=80,
    hidden=8192,
    kv_heads=8,
    head_size=128,
    weight_bytes=70_553_706_496,  # FP8, so that it fits one H200
)

MODEL_SHAPES: Mapping[str, ModelShape] = MappingProxyType(
    {shape.name: shape for shape in (SMOLLM2_135M, LLAMA3_8B, LLAMA3_70B)}
)
