"""The continuous-batching manager of transformers, configured for this service.

Imports transformers: only to be imported when an engine starts.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from transformers import ContinuousBatchingConfig

from backends.engines.config import TransformersConfig
from backends.engines.transformers.loading import Loaded
from backends.engines.transformers.sampling import base_generation, install
from backends.engines.transformers.scheduler import SCHEDULER

BLOCK_TOKENS = 16  # prompts share whole blocks: at the default of 256, short ones would share nothing
SAFETY_MARGIN = 0.15  # of the blocks; when fewer are free, the prefix cache is emptied
STEP_TOKENS_CPU = 128  # a step cannot be interrupted, and on a CPU this many take a quarter of a second
STEP_TOKENS_GPU = 2048


def make_manager(loaded: Loaded, config: TransformersConfig) -> Any:
    """A manager with its cache allocated and its thread not yet started; blocks.

    Raises ValueError, RuntimeError, MemoryError.
    """
    vocabulary = loaded.model.config.get_text_config().vocab_size
    manager = loaded.model.init_continuous_batching(
        generation_config=base_generation(vocabulary, loaded.ends),
        continuous_batching_config=_batching(config, loaded.device),
    )
    manager.warmup()
    install(manager, config.logprobs)
    return manager


def shares_prefixes(manager: Any) -> bool:
    """Whether blocks are really shared: it can be allowed, but not every attention can do it."""
    return bool(manager.batch_processor.cache.use_prefix_sharing)


def _batching(config: TransformersConfig, device: str) -> Any:
    one = ceil(config.context_tokens / BLOCK_TOKENS)
    blocks = config.cache_blocks or ceil(one * config.parallel / (1 - SAFETY_MARGIN))
    step = config.step_tokens or (STEP_TOKENS_CPU if device == "cpu" else STEP_TOKENS_GPU)
    return ContinuousBatchingConfig(
        page_size=BLOCK_TOKENS,
        num_blocks=blocks,
        max_batch_tokens=max(step, config.parallel),
        max_requests_per_batch=config.parallel,
        allow_block_sharing=config.share_prefixes,
        scheduler_type=SCHEDULER,
        safety_margin=SAFETY_MARGIN,
        return_logprobs=config.logprobs,
        per_request_processors=True,
        # Loading has chosen the attention; the manager would also fetch kernels from a hub and run them.
        auto_switch_to_flash=False,
        # In asynchronous batches, a request that is cancelled while a step of it runs takes the thread down:
        # its blocks are gone when the step's result is written.
        use_async_batching=False,
        # Graphs are captured before our processors are in place, and would go on without them.
        use_cuda_graph=False,
        max_blocks_per_request=0,  # its kernel wants pages of 256 tokens (FlashAttention 2)
    )
