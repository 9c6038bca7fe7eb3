"""Reads a model from its folder, or from the hub, and says in one line what is wrong with it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from router.settings.base import BadSettings

log = logging.getLogger(__name__)

HfObject = Any  # an object of torch's or transformers', which have no types here
MOST_NAMES = 3  # of weights in one message


def require_folder(path: str) -> None:
    """What looks like a folder must be one; anything else may be a name at the hub.

    Raises:
        BadSettings: if it is not there.
    """
    looks_local = path.startswith((".", "/", "~")) or Path(path).exists()
    if looks_local and not Path(path).is_dir():
        raise BadSettings(f"model: there is no folder {path!r}")


def loaded(path: str, what: str, load: HfObject, **options: HfObject) -> HfObject:
    """What `load` makes of the path, or an error that a person understands."""
    try:
        return load(path, **options)
    except BadSettings:
        raise
    except Exception as error:  # many libraries' errors, all of them the model's
        raise BadSettings(f"model: {path!r}: {what} cannot be loaded: {first(error)}") from error


def first(error: Exception) -> str:
    """The first line of an error."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)


def count_parameters(path: str, config: HfObject) -> int:
    """Of the model that a configuration describes.

    Raises:
        BadSettings: if it is none that generates text from what it keeps of each token.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if getattr(config.get_text_config(), "num_attention_heads", None) is None:
        raise BadSettings(
            f"model: {path!r}: {config.model_type} has no attention heads; transformers batches "
            "only models that have"
        )
    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(config)
        except Exception as error:
            why = f"no model that generates text: {first(error)}"
            raise BadSettings(f"model: {path!r}: {why}") from error
    return sum(parameter.numel() for parameter in model.parameters())


def read_weights(path: str, config: HfObject, dtype: HfObject, device: HfObject) -> HfObject:
    """The model with all its weights, on the device.

    transformers would make up what is not in the checkpoint, and tell of it in a table.

    Raises:
        BadSettings: naming weights that are missing, have another shape, or are no numbers.
    """
    from transformers import AutoModelForCausalLM

    model, loading_info = AutoModelForCausalLM.from_pretrained(
        path,
        config=config,
        dtype=dtype,
        attn_implementation="sdpa",
        low_cpu_mem_usage=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    if loading_info["missing_keys"]:
        raise BadSettings(
            f"model: {path!r}: weights are missing: {_some(loading_info['missing_keys'])}"
        )
    if loading_info["mismatched_keys"]:
        names = (
            f"{name} ({list(found)}, not {list(wanted)})"
            for name, found, wanted in loading_info["mismatched_keys"]
        )
        raise BadSettings(f"model: {path!r}: weights have another shape: {_some(names)}")
    if loading_info["unexpected_keys"]:
        log.warning(
            "weights are left unused", extra={"names": _some(loading_info["unexpected_keys"])}
        )
    model = model.to(device).eval()
    _require_numbers(path, model)
    return model


def _require_numbers(path: str, model: HfObject) -> None:
    """A sum shows them all, as infinities and what is no number do not go away."""
    import torch

    bad = [
        name
        for name, weights in model.named_parameters()
        if weights.is_floating_point() and weights.dtype.itemsize > 1
        and not weights.sum(dtype=torch.float32).isfinite()
    ]  # fmt: skip
    if bad:
        raise BadSettings(f"model: {path!r}: weights are no finite numbers: {_some(bad)}")


def _some(names: Iterable[str]) -> str:
    """The first few."""
    known = sorted(names)
    more = f" and {len(known) - MOST_NAMES} more" if len(known) > MOST_NAMES else ""
    return ", ".join(known[:MOST_NAMES]) + more
