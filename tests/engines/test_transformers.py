"""A real model under transformers: the tokens of plain generation, whatever the policy does."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from router.agent.engines.base import Engine, Iteration, Limit
from router.agent.loop import EngineLoop, EngineRequest
from router.agent.queue_position import QueuePosition
from router.http.schemas import read
from router.observe.metrics import AgentMetrics
from router.settings.agent import AgentSettings
from solver.batching.batcher import Batcher
from solver.batching.policies import POLICIES
from solver.batching.sequence import Stage
from solver.batching.targets import NO_TARGETS, Targets
from solver.cost.model import CostModel

pytestmark = pytest.mark.skipif(
    find_spec("transformers") is None, reason="needs `make transformers`"
)

# As transformers runs on one thread here; mixed iterations are allowed.
COST = CostModel(0.0013, 1.2e-4, 0.0013, 1.6e-3, 0.0, 0.002, 1.3e-4, 1.6e-3)
SLOTS, KV_TOKENS, BUDGET = 8, 4096, 256
NEVER = "\x00"
Plain = Callable[[list[int], int], str]


def settings_of(model: Path, **given: object) -> AgentSettings:
    known = {"slots": SLOTS, "kv_tokens": KV_TOKENS, "prefill_budget": BUDGET, "threads": 1}
    return AgentSettings.model_validate(
        {"engine": "transformers", "model": str(model), **known, **given}
    )


def prompts(count: int, seed: int, longest: int = 384) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(2, 4000) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def jobs(engine: Engine, wanted: list[dict[str, Any]]) -> list[EngineRequest]:
    found = []
    for given in wanted:
        body = {"model": "tiny-llama", "temperature": 0, **given}
        request = read(body, chat="messages" in body)
        most = request.output_limit(100)
        answers = engine.answers(request, body, always(most))
        found.append(EngineRequest(answers, 0, n=request.n))
    return found


def always(limit: int) -> Limit:
    return lambda _: limit


async def texts(job: EngineRequest) -> tuple[list[str], list[str | None]]:
    """What each choice said, and why it ended."""
    said = [""] * len(job.answers)
    ends: list[str | None] = [None] * len(job.answers)
    while None in ends:
        for piece in await job.take():
            said[piece.choice] += piece.token.text
            ends[piece.choice] = piece.token.finish_reason
    return said, ends


def run(
    engine: Engine,
    work: list[EngineRequest],
    policy: str,
    kv_tokens: int = KV_TOKENS,
    targets: Targets = NO_TARGETS,
) -> Batcher:
    """All at once, to the end."""
    batcher = Batcher(
        SLOTS, kv_tokens, COST, POLICIES[policy](), time.monotonic(), prefill_budget=BUDGET
    )
    loop = EngineLoop(batcher, engine, AgentMetrics())

    async def play() -> None:
        task = asyncio.create_task(loop.run())
        for job in work:
            loop.submit(job, None, time.monotonic(), QueuePosition(targets=targets))
        while batcher.running or batcher.queued:
            await asyncio.sleep(0.01)
            assert not loop.broken
        task.cancel()

    asyncio.run(play())
    return batcher


def said(job: EngineRequest) -> list[str]:
    return asyncio.run(texts(job))[0]


@pytest.fixture(scope="module")
def plain(model: Path) -> Plain:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    theirs = AutoModelForCausalLM.from_pretrained(model).eval()

    def generate(ids: list[int], limit: int) -> str:
        with torch.inference_mode():
            made = theirs.generate(
                torch.tensor([ids]), max_new_tokens=limit, do_sample=False, pad_token_id=1
            )
        return str(tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True))

    return generate


@pytest.fixture(scope="module")
def expected(plain: Plain) -> list[str]:
    return [plain(ids, 8 + k % 40) for k, ids in enumerate(prompts(24, 1))]


@pytest.mark.parametrize("policy", POLICIES)
def test_greedy_answers_are_those_of_plain_generation(
    engine: Engine, expected: list[str], policy: str
) -> None:
    wanted = [{"prompt": ids, "max_tokens": 8 + k % 40} for k, ids in enumerate(prompts(24, 1))]
    work = jobs(engine, wanted)
    run(engine, work, policy)
    assert [said(job)[0] for job in work] == expected


def test_greedy_answers_are_the_same_when_targets_cut_prompts(
    engine: Engine, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside eight that decode a chunk has 114 tokens at most: an iteration without is 15 ms."""
    beside: list[int] = []
    compute = engine.run

    async def watched(stage: Stage, *, resumed: bool) -> Iteration:
        if stage.decode:
            beside.append(stage.prompt_tokens)
        return await compute(stage, resumed=resumed)

    monkeypatch.setattr(engine, "run", watched)
    wanted = [{"prompt": ids, "max_tokens": 8 + k % 40} for k, ids in enumerate(prompts(24, 1))]
    work = jobs(engine, wanted)
    run(engine, work, "adaptive", targets=Targets(tpot_s=0.002))
    assert [said(job)[0] for job in work] == expected
    assert 0 < max(beside) <= 114


def test_who_loses_its_memory_goes_on_where_it_was(engine: Engine, plain: Plain) -> None:
    given = prompts(8, 3, 60)
    work = jobs(engine, [{"prompt": ids, "max_tokens": 100, "ignore_eos": True} for ids in given])
    batcher = run(engine, work, "adaptive", kv_tokens=500)
    assert batcher.preemptions > 0
    for ids, job in zip(given, work, strict=True):
        assert said(job)[0].startswith(plain(ids, 20))


def test_sampling_is_reproducible_by_its_seed_and_each_choice_has_its_own(engine: Engine) -> None:
    body = {"prompt": "def plan(", "n": 3, "temperature": 0.9, "seed": 7, "max_tokens": 12}
    one, two, other = jobs(engine, [body, body, {**body, "seed": 8}])
    run(engine, [one, two, other], "adaptive")
    first = said(one)
    assert first == said(two)
    assert len(set(first)) == 3
    assert first != said(other)


@pytest.mark.parametrize(
    "cut", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-4}]
)
def test_each_way_to_cut_leaves_the_likeliest(engine: Engine, cut: dict[str, float]) -> None:
    body = {"prompt": "class Search", "max_tokens": 10}
    greedy, sampled = jobs(engine, [body, {**body, "temperature": 1.0, **cut}])
    run(engine, [greedy, sampled], "mixed")
    assert said(greedy) == said(sampled)


def test_samples_follow_the_models_probabilities(engine: Engine) -> None:
    body = {"prompt": "for i in", "max_tokens": 1, "temperature": 0.5, "n": 128, "seed": 1,
            "logprobs": 5}  # fmt: skip
    (job,) = jobs(engine, [body])
    run(engine, [job], "adaptive")
    pieces = asyncio.run(job.take())
    likeliest = pieces[0].token.logprob
    assert likeliest is not None
    top = dict(likeliest.top)
    weights = {text: 2.718281828 ** (2 * value) for text, value in top.items()}
    a, b = list(weights)[:2]
    count = [
        sum(p.token.logprob.text == text for p in pieces if p.token.logprob) for text in (a, b)
    ]
    assert sum(count) > 0
    share, wanted = count[0] / sum(count), weights[a] / (weights[a] + weights[b])
    assert share == pytest.approx(wanted, abs=4 * (0.25 / sum(count)) ** 0.5)


def test_bias_and_penalties_change_what_is_said(engine: Engine) -> None:
    body = {"prompt": "import numpy", "max_tokens": 30, "ignore_eos": True}
    never = {"logit_bias": {"50": 100}}
    again = {"logit_bias": {"50": 12}}
    work = jobs(engine, [{**body, **never}, {**body, **again},
                         {**body, **again, "frequency_penalty": 2.0}])  # fmt: skip
    run(engine, work, "adaptive")
    always, often, seldom = (said(job)[0] for job in work)
    word = always[: len(always) // 30]
    assert always == word * 30
    assert often.count(word) > seldom.count(word)


def test_a_stop_string_ends_the_answer_before_it(engine: Engine) -> None:
    body = {"prompt": "def hello(", "max_tokens": 40, "ignore_eos": True}
    (whole,) = jobs(engine, [body])
    run(engine, [whole], "adaptive")
    text = said(whole)[0]
    stop = text[20:25]
    (cut,) = jobs(engine, [{**body, "stop": [stop, NEVER]}])
    run(engine, [cut], "adaptive")
    answer, ends = asyncio.run(texts(cut))
    assert answer == [text[: text.index(stop)]]
    assert ends == ["stop"]


def test_an_answer_ends_at_the_models_own_end_unless_told(engine: Engine) -> None:
    body = {"prompt": "x", "max_tokens": 9, "logit_bias": {"1": 100}}
    work = jobs(engine, [body, {**body, "ignore_eos": True}, {**body, "min_tokens": 4}])
    run(engine, work, "adaptive")
    counts, reasons = [], []
    for job in work:
        pieces = asyncio.run(job.take())
        counts.append(len(pieces))
        reasons.append(pieces[-1].token.finish_reason)
    assert counts == [1, 9, 5]
    assert reasons == ["stop", "length", "stop"]


def test_a_chat_goes_through_the_models_template(engine: Engine, plain: Plain, model: Path) -> None:
    from transformers import AutoTokenizer

    messages = [{"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Why?"}]}]  # fmt: skip
    (job,) = jobs(engine, [{"messages": messages, "max_tokens": 12}])
    run(engine, [job], "adaptive")
    written = "<s>system: Be brief.\n<s>user: Why?\n<s>assistant:"
    ids = AutoTokenizer.from_pretrained(model)(written, add_special_tokens=False)["input_ids"]
    assert said(job)[0] == plain(ids, 12)
