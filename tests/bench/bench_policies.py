"""Prefill-first against the Lagrangian rule on one engine, in virtual time.

LLaMA-65B on eight Ascend 64 GB (arXiv:2502.15763), 1,319 GSM8K requests at once, 200 slots. The
batching, the policies and the books are the live agent's; only the clock is not.

    python -m tests.bench.bench_policies
"""

from __future__ import annotations

from router.agent.engines.text import count_tokens
from solver.bounds import engine_bound
from solver.cost import PROFILES
from tests.helpers import data_dir, gsm8k
from tests.solver.simulate import run


def main() -> None:
    """Print the table."""
    profile = PROFILES["llama-65b-ascend"]
    load = [(count_tokens(question), length) for question, length in gsm8k()]
    prompt, output = (sum(column) for column in zip(*load, strict=True))
    longest = max(length for _, length in load)
    bound = engine_bound(profile.cost, profile.slots, len(load), prompt, output, longest)
    print(f"lengths: {'GSM8K' if data_dir() else 'generated, with the statistics of GSM8K'}")
    print(f"lower bound {bound:.1f} s\n")
    print(
        f"{'policy':<15}{'output lengths':<16}{'time, s':>9}{'over bound':>12}{'utilization':>13}"
    )
    for known in (False, True):
        for policy in ("prefill-first", "lagrangian"):
            result = run(load, profile.cost, slots=profile.slots, policy=policy, known=known)
            seconds = result.batcher.ledger.seconds
            useful = (seconds["prefill"] + seconds["decode"]) / profile.slots / result.makespan_s
            over = result.makespan_s / bound - 1
            lengths = "known" if known else "unknown"
            print(f"{policy:<15}{lengths:<16}{result.makespan_s:>9.1f}{over:>12.1%}{useful:>13.1%}")


if __name__ == "__main__":
    main()
