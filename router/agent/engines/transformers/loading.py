"""Loads a model for the engine beside this file; what is wrong with it is said at start."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

from router.agent.engines.base import Engine
from router.agent.engines.transformers.checkpoint import (
    count_parameters,
    first,
    loaded,
    read_weights,
    require_folder,
)
from router.agent.engines.transformers.memory import (
    PAGE_TOKENS,
    PREFILL_BUDGET,
    batch_tokens,
    pages,
    require_memory,
)
from router.settings.agent import AgentSettings
from router.settings.base import BadSettings

log = logging.getLogger(__name__)

HfObject = Any  # an object of torch's or transformers', which have no types here

KNOWN = ((5, 17), (5, 24))  # transformers from, and below
INSTALL = "`make transformers`, or pip install '.[transformers]' in Makespan's folder"
# Cached tokens, unless told, where memory is the machine's: the attention masks grow with them.
CPU_KV_TOKENS = 16_384


def resolve(settings: AgentSettings) -> tuple[AgentSettings, Engine]:
    """The engine, and the settings with what its model says filled in.

    Raises:
        BadSettings: if the model is missing, broken or too big, naming what to do.
    """
    require_folder(settings.model)  # what takes seconds to load is loaded for a model that is there
    _require_transformers()
    import torch
    from transformers import AutoConfig, AutoTokenizer

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    start, path = time.monotonic(), settings.model
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = loaded(path, "its config", AutoConfig.from_pretrained)
    parameters = count_parameters(path, config)
    settings = _filled(settings, config, device.type)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    require_memory(settings, config, parameters, device, dtype)
    tokenizer = loaded(path, "its tokenizer", AutoTokenizer.from_pretrained)
    model = loaded(path, "its weights", read_weights, config=config, dtype=dtype, device=device)
    try:
        engine = assemble(settings, model, tokenizer)
    except Exception as error:  # of transformers, which knows many models, or for want of memory
        message = f"model: {path!r}: transformers cannot batch it: {first(error)}"
        raise BadSettings(message) from error
    details = {"model": settings.model, "device": str(device), "dtype": str(dtype)}
    if tokenizer.chat_template is None:
        log.warning("the model has no chat template: it completes prompts, but takes no chats")
    log.info("model loaded", extra={**details, "seconds": round(time.monotonic() - start, 1)})
    return settings, engine


def _require_transformers() -> None:
    try:
        import psutil  # noqa: F401
        import tokenizers  # noqa: F401
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise BadSettings(f"engine: transformers needs {error.name}: {INSTALL}") from error
    _hand_over_logs()
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if not KNOWN[0] <= version < KNOWN[1]:
        known = " to below ".join(".".join(map(str, one)) for one in KNOWN)
        raise BadSettings(
            f"engine: transformers {transformers.__version__} is installed, but its continuous "
            f"batching is only known from {known}: {INSTALL}"
        )


def _hand_over_logs() -> None:
    """Their lines go the way of ours, once; what `read_weights` says is not said twice."""
    import transformers

    theirs = transformers.utils.logging
    theirs.disable_default_handler()
    theirs.enable_propagation()
    hub = logging.getLogger("huggingface_hub")
    for handler in list(hub.handlers):
        hub.removeHandler(handler)
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.WARNING)
    for noisy in ("transformers.modeling_utils", "transformers.distributed.tensor_parallel"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        theirs.disable_progress_bar()


def _filled(settings: AgentSettings, config: HfObject, device: str) -> AgentSettings:
    """The settings that nobody gave, from the model; what was given must fit it."""
    given, text = settings.model_fields_set, config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None) or settings.max_model_len
    if "max_model_len" in given and settings.max_model_len > longest:
        why = f"{settings.max_model_len} is above the model's own {longest}"
        raise BadSettings(f"max_model_len: {why}")
    length = min(settings.max_model_len, longest)
    kv_tokens = settings.kv_tokens
    if "kv_tokens" not in given and device == "cpu":
        kv_tokens = max(length, CPU_KV_TOKENS)
    named = Path(settings.model)
    return settings.model_copy(
        update={
            "model": settings.served_model_name or (named.name if named.is_dir() else str(named)),
            "max_model_len": length,
            "kv_tokens": kv_tokens,
            "prefill_budget": settings.prefill_budget or PREFILL_BUDGET,
            "prefix_cache": False,
        }
    )


def assemble(settings: AgentSettings, model: HfObject, tokenizer: HfObject) -> Engine:
    """An engine of a model that is loaded."""
    from transformers import GenerationConfig

    from router.agent.engines.transformers import scheduler
    from router.agent.engines.transformers.engine import TransformersEngine
    from router.agent.engines.transformers.sampler import Sampler

    scheduler.register()
    greedy = GenerationConfig(do_sample=False, eos_token_id=-1)
    manager = model.init_continuous_batching(greedy, batching_config(settings, scheduler.NAME))
    sampler = Sampler()
    processors = manager.logit_processor
    processors.logits_processor.append(sampler)
    processors.tensors_required, processors.do_processing = 1, True
    manager.warmup()
    return TransformersEngine(model, tokenizer, manager.batch_processor, sampler, _ends(model))


def batching_config(settings: AgentSettings, scheduler: str) -> HfObject:
    """How transformers is to batch, under the scheduler of that name."""
    from transformers import ContinuousBatchingConfig

    page = {"page_size": PAGE_TOKENS}
    if "page_size" not in ContinuousBatchingConfig.__dataclass_fields__:  # before 5.18
        page = {"block_size": PAGE_TOKENS}
    return ContinuousBatchingConfig(
        scheduler_type=scheduler,
        num_blocks=pages(settings),
        max_batch_tokens=batch_tokens(settings),
        max_requests_per_batch=settings.slots,
        allow_block_sharing=False,
        use_async_batching=False,
        use_cuda_graph=False,
        **page,
    )


def _ends(model: HfObject) -> tuple[int, ...]:
    """Tokens that end an answer."""
    found = model.generation_config.eos_token_id
    if found is None:
        found = model.config.get_text_config().eos_token_id
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list) else (int(found),)
