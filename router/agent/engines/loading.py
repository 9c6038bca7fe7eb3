"""Loads a model for `router.agent.engines.transformers`; what is wrong with it is said at start."""

from __future__ import annotations

import logging
import sys
import time
from math import ceil
from pathlib import Path
from typing import Any

from router.agent.engines.engine import Engine
from router.settings import AgentSettings, BadSettings

log = logging.getLogger(__name__)

Theirs = Any  # an object of torch's or transformers', which have no types here

KNOWN = ((5, 17), (5, 24))  # transformers from, and below
INSTALL = "`make transformers`, or pip install 'makespan[transformers]'"
# Prompt tokens of one iteration, unless told: more make those who decode wait too long.
PREFILL_BUDGET = 2048
# Cached tokens, unless told, where memory is the machine's: the attention masks grow with them.
CPU_KV_TOKENS = 16_384
PAGE_TOKENS = 32
# Share of free memory that weights and cache may take.
MOST_MEMORY = 0.9


def resolve(settings: AgentSettings) -> tuple[AgentSettings, Engine]:
    """The engine, and the settings with what its model says filled in.

    Raises:
        BadSettings: if the model is missing, broken or too big, naming what to do.
    """
    _require_transformers()
    import torch
    from transformers import AutoConfig, AutoTokenizer

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    start, path = time.monotonic(), settings.model
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = _loaded(path, "its config", AutoConfig.from_pretrained)
    settings = _filled(settings, config, device.type)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    _require_memory(settings, config, device, dtype)
    tokenizer = _loaded(path, "its tokenizer", AutoTokenizer.from_pretrained)
    model = _loaded(path, "its weights", _weights, config=config, dtype=dtype)
    model = model.to(device).eval()
    engine = assemble(settings, model, tokenizer)
    told = {"model": settings.model, "device": str(device), "dtype": str(dtype)}
    log.info("model loaded", extra={**told, "seconds": round(time.monotonic() - start, 1)})
    return settings, engine


def _require_transformers() -> None:
    try:
        import psutil  # noqa: F401
        import tokenizers  # noqa: F401
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise BadSettings(f"engine: transformers needs {error.name}: {INSTALL}") from error
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.WARNING)
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if not KNOWN[0] <= version < KNOWN[1]:
        known = " to below ".join(".".join(map(str, one)) for one in KNOWN)
        raise BadSettings(
            f"engine: transformers {transformers.__version__} is installed, but its continuous "
            f"batching is only known from {known}: {INSTALL}"
        )


def _loaded(path: str, what: str, load: Theirs, **options: Theirs) -> Theirs:
    """What `load` makes of the path, or an error that a person understands."""
    looks_local = path.startswith((".", "/", "~")) or Path(path).exists()
    if looks_local and not Path(path).is_dir():
        raise BadSettings(f"model: there is no folder {path!r}")
    try:
        return load(path, **options)
    except Exception as error:  # many libraries' errors, all of them the model's
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise BadSettings(f"model: {path!r}: {what} cannot be loaded: {first}") from error


def _weights(path: str, config: object, dtype: object) -> Theirs:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        path, config=config, dtype=dtype, attn_implementation="sdpa", low_cpu_mem_usage=True
    )


def _filled(settings: AgentSettings, config: Theirs, device: str) -> AgentSettings:
    """The settings that nobody gave, from the model; what was given must fit it."""
    given, text = settings.model_fields_set, config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None) or settings.max_model_len
    if "max_model_len" in given and settings.max_model_len > longest:
        told = f"{settings.max_model_len} is above the model's own {longest}"
        raise BadSettings(f"max_model_len: {told}")
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


def _require_memory(settings: AgentSettings, config: Theirs, device: Theirs, dtype: Theirs) -> None:
    """Refuse a model that cannot fit before its weights are read."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        try:
            parameters = sum(
                p.numel() for p in AutoModelForCausalLM.from_config(config).parameters()
            )
        except Exception as error:
            raise BadSettings(f"model: no model that generates text: {error}") from error
    text, size = config.get_text_config(), dtype.itemsize
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cache = 2 * text.num_hidden_layers * heads * width * size * settings.kv_tokens
    free = _free_bytes(device)
    if parameters * size + cache > MOST_MEMORY * free:
        raise BadSettings(
            f"model: {parameters / 1e9:.1f} billion weights take {parameters * size / 1e9:.1f} GB "
            f"and {settings.kv_tokens} cached tokens {cache / 1e9:.1f} GB, but {device} has "
            f"{free / 1e9:.1f} GB free: take a smaller model, or fewer --kv-tokens"
        )


def _free_bytes(device: Theirs) -> float:
    import psutil
    import torch

    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(psutil.virtual_memory().available)


def assemble(settings: AgentSettings, model: Theirs, tokenizer: Theirs) -> Engine:
    """An engine of a model that is loaded."""
    from transformers import GenerationConfig

    from router.agent.engines import steering
    from router.agent.engines.choosing import Chooser
    from router.agent.engines.transformers import TransformersEngine

    steering.register()
    greedy = GenerationConfig(do_sample=False, eos_token_id=-1)
    manager = model.init_continuous_batching(greedy, batching_config(settings, steering.NAME))
    chooser = Chooser()
    processors = manager.logit_processor
    processors.logits_processor.append(chooser)
    processors.tensors_required, processors.do_processing = 1, True
    manager.warmup()
    return TransformersEngine(model, tokenizer, manager.batch_processor, chooser, _ends(model))


def batching_config(settings: AgentSettings, scheduler: str) -> Theirs:
    """How transformers is to batch, under the scheduler of that name."""
    from transformers import ContinuousBatchingConfig

    page = {"page_size": PAGE_TOKENS}
    if "page_size" not in ContinuousBatchingConfig.__dataclass_fields__:  # before 5.18
        page = {"block_size": PAGE_TOKENS}
    return ContinuousBatchingConfig(
        scheduler_type=scheduler,
        # A page may stand half empty for each sequence; the batcher counts tokens.
        num_blocks=ceil(settings.kv_tokens / PAGE_TOKENS) + 2 * settings.slots,
        max_batch_tokens=(settings.prefill_budget or PREFILL_BUDGET) + settings.slots,
        max_requests_per_batch=settings.slots,
        allow_block_sharing=False,
        use_async_batching=False,
        use_cuda_graph=False,
        **page,
    )


def _ends(model: Theirs) -> tuple[int, ...]:
    """Tokens that end an answer."""
    found = model.generation_config.eos_token_id
    if found is None:
        found = model.config.get_text_config().eos_token_id
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list) else (int(found),)
