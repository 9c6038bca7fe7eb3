"""Models on their hardware: iteration times fitted to published measurements, slots and memory.

Sources, of which only figures are used:

- ``llama-65b-ascend``: arXiv:2502.15763 section V-A, as stated there; no mixed iterations.
- ``llama-2-70b-*``: microsoft/vidur (MIT), ``data/profiling``: least squares over the sums of its
  operators' median times, 80 layers with two all-reduces each, for up to 128 sequences in a decode
  round and 256 to 4,096 tokens in a prefill; plus attention and the CPU's time.
- ``opt-66b-*``: LLMServe/DistServe (Apache-2.0), ``profiler-a100-80g.distserve.json``: its own
  engine's times as published, nothing added. Decoding has two fits there, below 95 sequences and
  from 95 on; each profile takes the one that its slots, when full, fall under.

Left out, because times are linear here: attention within a prompt grows with the prompt's square,
to 2 % of the prefill of 1,000 tokens and 10 % of 4,000 (Llama-2-70B), 5 % of 1,000 and 10 % of
2,000 (OPT-66B).

For comparison, the vLLM of 2023 measured end to end on Llama-2-70B (Mutinifni/splitwise-sim, MIT,
``data/perf_model.csv``): rounds of up to 32 sequences took 4 % less to 21 % more than the TP4
profiles say and 33 to 70 % more than the TP8 profiles say, a prefill of 512 tokens 1 to 26 % more.
A sequence more cost it 0.3 ms a round on H100, 576 cached tokens included. With those times an H100
would be slower than an A100 with vidur's from 64 sequences on, so one source serves for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from solver.cost.model import CostModel


@dataclass(frozen=True, slots=True)
class Profile:
    """A model on its hardware: cost model, slots and memory for cached tokens."""

    model: str
    cost: CostModel
    slots: int
    kv_tokens: int
    max_model_len: int


@dataclass(frozen=True, slots=True)
class _Model:
    """A model of 16-bit weights that caches a key and a value, 16 bits a number."""

    name: str
    parameters: float
    layers: int
    kv_heads: int
    head_size: int
    max_model_len: int

    def on(self, gpus: int, cost: CostModel, slots: int) -> Profile:
        """Its profile on GPUs of 80 GB, 90 % of which (vLLM's default) hold weights and cache."""
        token_bytes = 2 * 2 * self.layers * self.kv_heads * self.head_size
        kv_tokens = int((0.9 * 80e9 * gpus - 2 * self.parameters) / token_bytes)
        return Profile(self.name, cost, slots, kv_tokens, self.max_model_len)


def _cost(
    prefill_ms: float,
    token_ms: float,
    decode_ms: float,
    sequence_ms: float,
    cached_ms: float,
    *,
    cpu_ms: float = 0.0,
    cpu_sequence_ms: float = 0.0,
) -> CostModel:
    """The cost model of a GPU's times and the CPU's, with terms for mixed iterations.

    A mixed iteration passes p + b tokens through the same matrix products as a prefill of that
    many, and reads the cache like a decode round: so it has the prefill's time per token for both
    kinds. The prefill's line holds from 256 tokens on; with fewer, reading the weights takes longer
    than multiplying, and the line would make an iteration shorter than the decode round in it. The
    fixed part is therefore the larger of the two: no mixed iteration is shorter than either half.

    Against vidur's operators for p + b tokens, its mean error for TP4 is 5 % (A100) and 7 % (H100)
    from 256 to 4,096 tokens, 13 % and 17 % below, mostly too long because of the larger fixed part,
    at most by 32 %; for TP8 it is 3 % and 6 %.
    """
    return CostModel.from_ms(
        {
            "alpha_p_ms": prefill_ms + cpu_ms,
            "beta_p_ms": token_ms,
            "alpha_d_ms": decode_ms + cpu_ms,
            "beta_d_ms": sequence_ms + cpu_sequence_ms,
            "gamma_d_ms": cached_ms,
            "alpha_m_ms": max(prefill_ms, decode_ms) + cpu_ms,
            "beta_mp_ms": token_ms,
            "beta_md_ms": token_ms + cpu_sequence_ms,
        }
    )


def _with_cpu(
    prefill_ms: float, token_ms: float, decode_ms: float, sequence_ms: float, cached_ms: float
) -> CostModel:
    """Kernels of Llama-2-70B and the CPU's time around them.

    The CPU's line fits batches of 8 to 128 to 0.2 ms (vidur, ``cpu_overheads.csv``). It was
    measured on A100 and TP4 alone, and stands for the others too.
    """
    gpu = prefill_ms, token_ms, decode_ms, sequence_ms, cached_ms
    return _cost(*gpu, cpu_ms=8.09, cpu_sequence_ms=0.0438)


A100_GB_S, H100_GB_S = 2039.0, 3350.0  # memory bandwidth of the 80 GB SXM modules


def _attention_ms(gpus: int, gb_s: float = A100_GB_S) -> float:
    """Decode attention over one cached token of Llama-2-70B.

    It was measured on two A100 alone (vidur, ``attention.csv``). More GPUs share it, and it takes
    as long as the cache takes to be read.
    """
    return 1.044e-4 * 2 / gpus * A100_GB_S / gb_s


# arXiv:2307.09288 (grouped-query attention: 8 heads are cached of 64) and arXiv:2205.01068.
LLAMA_2_70B = _Model("llama-2-70b", 69.0e9, 80, 8, 128, 4096)
OPT_66B = _Model("opt-66b", 65.7e9, 64, 72, 128, 2048)

PROFILES: Mapping[str, Profile] = {
    # LLaMA-65B on eight Ascend 64 GB: 1,024 KV blocks of 128 tokens, 200 clients (arXiv:2502.15763
    # section V-A); 2,048 tokens is LLaMA's context length (arXiv:2302.13971).
    "llama-65b-ascend": Profile(
        model="llama-65b",
        cost=CostModel(alpha_p_s=0.025, beta_p_s=0.00013, alpha_d_s=0.029, beta_d_s=0.00021),
        slots=200,
        kv_tokens=1024 * 128,
        max_model_len=2048,
    ),
    # 128 slots: as many as the decode fits reach. Two GPUs would keep 6 GB beside the weights: too
    # little to batch, so there is no TP2.
    "llama-2-70b-a100-tp4": LLAMA_2_70B.on(
        4, _with_cpu(22.2792, 0.18412, 30.0739, 0.104464, _attention_ms(4)), slots=128
    ),
    "llama-2-70b-a100-tp8": LLAMA_2_70B.on(
        8, _with_cpu(19.0711, 0.112558, 19.0465, 0.0942311, _attention_ms(8)), slots=128
    ),
    # The fit's time per sequence, -0.0002 ms, is nothing: its rounds last as long as the weights
    # take to be read.
    "llama-2-70b-h100-tp4": LLAMA_2_70B.on(
        4, _with_cpu(14.9927, 0.0623608, 21.3896, 0.0, _attention_ms(4, H100_GB_S)), slots=128
    ),
    "llama-2-70b-h100-tp8": LLAMA_2_70B.on(
        8,
        _with_cpu(13.4332, 0.0406761, 13.1536, 0.0256324, _attention_ms(8, H100_GB_S)),
        slots=128,
    ),
    # 64 slots fit about 1,000 tokens each into memory; the fit below 95 sequences.
    "opt-66b-a100-tp4": OPT_66B.on(
        4, _cost(29.4416, 0.151352, 30.7603, 0.0632842, 4.51948e-4), slots=64
    ),
    # The fit from 95 sequences on; at 1 to 64 sequences of 500 tokens it is 6 % below to 18 % above
    # the other.
    "opt-66b-a100-tp8": OPT_66B.on(
        8, _cost(25.4907, 0.106592, 21.7177, 0.0897861, 3.75809e-4), slots=128
    ),
}
