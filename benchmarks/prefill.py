"""What N samples of one prompt make an engine compute, against the ideal: the prompt once, each token once.

    python -m benchmarks.prefill --engine llamacpp --engine transformers

The first sample is drawn to its end, then the others together, as strategies do; with --overlap the others
start at its first token. llama.cpp's server copies a prompt to other slots only when its sample is over.

Counted are the prompt tokens that an engine says it computed, and the completion tokens. transformers shares
blocks of 16 tokens, so each follower computes up to 16 tokens of the prompt; its scheduler also counts what
went through the model (the last token of a reply never does), which checks what it says. The one token that
llama.cpp generates for nothing before the first follower (LlamaCppEngine._share) is in no count.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from backends.engines.base import Chunk, Completion, Engine, Generation, Message, Sampling
from backends.engines.build import build_engine
from backends.engines.config import EngineConfig, LlamaCppConfig, TransformersConfig

CONFIGS: dict[str, EngineConfig] = {
    "llamacpp": LlamaCppConfig(context_tokens=1024, parallel=8, threads=1),
    "transformers": TransformersConfig(context_tokens=1024, parallel=8),
}


async def prompt_of(engine: Engine, tokens: int) -> tuple[Message, ...]:
    """Messages whose templated prompt has `tokens` tokens or a few more."""
    text = "Continue this list of facts."
    number = 0
    while await engine.count_prompt_tokens((Message("user", text),)) < tokens:
        number += 1
        text += f" Fact {number} is about {number * 7}."
    return (Message("user", text),)


async def last(items: AsyncGenerator[Chunk | Completion, None]) -> Completion:
    async with aclosing(items):
        done = [item async for item in items][-1]
    assert isinstance(done, Completion)
    return done


async def measure(name: str, samples: int, prompt_tokens: int, completion_tokens: int, overlap: bool) -> None:
    """Print what was computed, the ideal and their ratio."""
    engine = build_engine(CONFIGS[name])
    await engine.start()
    try:
        messages = await prompt_of(engine, prompt_tokens)
        draws = [
            engine.generate(Generation(messages, Sampling(completion_tokens, temperature=0.8, seed=seed)))
            for seed in range(samples)
        ]
        before = getattr(engine, "forward_tokens", None)
        if overlap:
            await anext(draws[0])
            done = await asyncio.gather(*(last(draw) for draw in draws))
        else:
            done = [await last(draws[0]), *await asyncio.gather(*(last(draw) for draw in draws[1:]))]
        after = getattr(engine, "forward_tokens", None)
    finally:
        await engine.aclose()
    generated = sum(each.completion_tokens for each in done)
    computed = sum(each.prompt_tokens - each.cached_tokens for each in done)
    ideal = done[0].prompt_tokens + generated
    counted = "" if before is None or after is None else f", {after - before} through the model"
    print(
        f"{name}: {samples} samples of {done[0].prompt_tokens} prompt tokens, {generated} generated: "
        f"{computed} prompt tokens computed, {computed + generated} in all{counted}; "
        f"ideal {ideal}, ratio {(computed + generated) / ideal:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", action="append", choices=sorted(CONFIGS), help="may be given again")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=400)
    parser.add_argument("--completion-tokens", type=int, default=32)
    parser.add_argument("--overlap", action="store_true", help="start the others at the first token")
    asked = parser.parse_args()
    for name in asked.engine or sorted(CONFIGS):
        asyncio.run(measure(name, asked.samples, asked.prompt_tokens, asked.completion_tokens, asked.overlap))


if __name__ == "__main__":
    main()
