"""`makespan calibrate`: it finds what an engine takes, and its file is a cost model elsewhere."""

from __future__ import annotations

import asyncio
import json
import random
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from router.agent.engines.base import Iteration
from router.agent.engines.emulated.engine import EmulatedEngine
from router.agent.loop import EngineLoop, EngineRequest
from router.cli import main
from router.http.schemas import read
from router.lab.calibrate import _limits, _untold, measure
from router.lab.calibration.limits import Limits, limits_of
from router.lab.calibration.probe_engine import EngineProbe
from router.lab.calibration.probe_http import HttpProbe, Stream, stretches
from router.lab.calibration.shapes import Shapes
from router.lab.simulation.run import setting
from router.observe.metrics import AgentMetrics
from router.settings.agent import AgentSettings
from router.settings.base import BadSettings
from router.settings.calibrate import CalibrateSettings
from router.settings.commands import load
from router.settings.gateway import GatewaySettings
from router.settings.hardware import hardware
from router.settings.simulate import SimulateSettings
from router.settings.up import UpSettings
from solver.batching.batcher import Batcher
from solver.batching.policies import POLICIES
from solver.batching.sequence import Stage
from solver.cost.calibration import Sample, calibrate
from solver.cost.model import Action, CostModel
from solver.cost.online import OnlineFit
from solver.errors import ProblemError
from tests.helpers import Process, scrape

TRUTH = CostModel(0.003, 0.00001, 0.004, 0.0001, 1e-7, 0.005, 0.00001, 0.0001)
SHAPES = Shapes(slots=16, kv_tokens=16_384, max_model_len=1024, rounds=8)


class NoisyEngine(EmulatedEngine):
    """Takes no time; says that it took its cost model's, give or take, and now and then stalls."""

    def __init__(self, cost: CostModel, noise: float, stalls: float = 0.0) -> None:
        super().__init__(cost, {}, 0)
        self._noise, self._stalls, self._draw = noise, stalls, random.Random(1)

    async def run(self, stage: Stage, *, resumed: bool) -> Iteration:  # noqa: ARG002
        seconds = stage.duration_s(self.cost) * self._draw.lognormvariate(0.0, self._noise)
        if self._draw.random() < self._stalls:
            seconds *= 20
        return Iteration(0.0, seconds, self.next_tokens(stage))


def measured(engine: EmulatedEngine, shapes: Shapes = SHAPES) -> list[Sample]:
    return asyncio.run(measure(EngineProbe(engine, "m", shapes, 0)))


def test_the_truth_is_found_through_noise_and_stalls() -> None:
    found = calibrate(measured(NoisyEngine(TRUTH, 0.05, stalls=0.02)))
    wanted = TRUTH.to_ms()
    for sample in measured(NoisyEngine(TRUTH, 0.0)):
        assert sample.predicted_s(found.cost) == pytest.approx(sample.seconds, rel=0.08)
    assert set(found.cost.to_ms()) == set(wanted)
    for action in (Action.PREFILL, Action.DECODE, Action.MIXED):
        error = found.errors[action]
        assert error.held_out
        assert 0.01 < error.median < 0.08


def test_the_time_of_queries_and_keys_is_found() -> None:
    pairs = replace(TRUTH, delta_s=6e-8)
    found = calibrate(measured(NoisyEngine(pairs, 0.0)))
    assert found.cost.to_ms() == pytest.approx(pairs.to_ms(), rel=1e-6, abs=1e-12)
    noisy = calibrate(measured(NoisyEngine(pairs, 0.05, stalls=0.02)))
    assert noisy.cost.delta_s == pytest.approx(pairs.delta_s, rel=0.1)


def test_errors_are_honest_where_nothing_fits() -> None:
    """Mixed iterations that take long by what is cached alone, though decode rounds do not."""
    samples = [
        Sample(s.action, s.prompt_tokens, s.batch, s.kv_tokens, s.seconds * (1 + s.kv_tokens / 2e3))
        if s.action is Action.MIXED
        else s
        for s in measured(NoisyEngine(TRUTH, 0.0))
    ]
    errors = calibrate(samples).errors
    assert errors[Action.MIXED].p95 > 0.2
    assert errors[Action.PREFILL].p95 < 0.01


def test_it_measures_no_mixed_iterations_of_an_engine_without() -> None:
    cost = CostModel(0.003, 0.00001, 0.004, 0.0001)
    shapes = Shapes(16, 16_384, 1024, 4, mixed=False)
    found = calibrate(measured(NoisyEngine(cost, 0.0), shapes))
    assert found.cost.mixed is None
    assert found.cost.to_ms() == pytest.approx(cost.to_ms(), abs=1e-9)


@pytest.mark.parametrize(
    "shapes",
    [SHAPES, Shapes(1, 256, 128, 1), Shapes(200, 131_072, 2048, 8), Shapes(64, 2048, 2048, 8)],
)
def test_all_that_is_measured_fits_into_memory(shapes: Shapes) -> None:
    assert len(shapes.decodes) >= 1
    most = max(shapes.mixed_prompts)
    for batch, context in shapes.decodes:
        assert batch <= shapes.slots
        assert batch * (context + shapes.most_tokens) + most <= shapes.kv_tokens
        assert context + shapes.most_tokens <= shapes.max_model_len
    assert max(shapes.prompts) <= shapes.max_model_len


@pytest.mark.parametrize("learning", [True, False])
def test_the_loops_cost_model_follows_its_engine(learning: bool) -> None:
    engine, prior = NoisyEngine(TRUTH, 0.05), TRUTH.scaled(3)
    batcher = Batcher(8, 16_384, prior, POLICIES["prefill-first"](), 0.0)
    loop = EngineLoop(batcher, engine, AgentMetrics(), OnlineFit(prior) if learning else None)

    async def play() -> None:
        running = asyncio.create_task(loop.run())
        for k in range(60):
            body: dict[str, Any] = {
                "model": "m",
                "prompt": [300] * (20 + 9 * k),
                "max_tokens": 5 + k % 7,
            }
            body["ignore_eos"] = True
            limit = partial(min, 5 + k % 7)
            answers = engine.answers(read(body, chat=False), body, limit)
            job = EngineRequest(answers, 20 + 9 * k)
            loop.submit(job, None, 0.0)
            if k % 3 == 0:
                while not any(piece.token.finish_reason for piece in await job.take()):
                    pass
        running.cancel()

    asyncio.run(play())
    assert engine.cost == TRUTH
    if not learning:
        assert batcher.cost == prior
        return
    assert batcher.cost.prefill_s(300) == pytest.approx(TRUTH.prefill_s(300), rel=0.1)
    assert batcher.cost.decode_s(2, 600) == pytest.approx(TRUTH.decode_s(2, 600), rel=0.1)


def test_too_few_samples_are_an_error() -> None:
    with pytest.raises(ProblemError, match="decode"):
        calibrate([Sample(Action.PREFILL, n, 0, 0, 0.01) for n in (1, 2, 3)])


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_cannot_be_is_an_error(seconds: float) -> None:
    with pytest.raises(ProblemError, match="seconds"):
        calibrate([Sample(Action.PREFILL, 1, 0, 0, seconds)])


def test_rounds_of_streams_count_only_while_all_are_served() -> None:
    early = Stream(0.0, 10, [(0.1 * k, k) for k in range(1, 31)])
    late = Stream(0.0, 10, [(1.0 + 0.1 * k, k) for k in range(1, 31)])
    found = stretches([early, late], 100)
    assert len(found) == 4  # from 1.2 s to 3 s
    for sample in found:
        assert sample.batch == 2
        assert sample.seconds == pytest.approx(0.1)
    assert found[0].kv_tokens == 20 + (12 + 2) + 4  # at 1.2 s, and half of what a stretch adds
    assert found[-1].kv_tokens > found[0].kv_tokens


def test_a_chunk_may_carry_two_tokens() -> None:
    stream = Stream(0.0, 10, [(0.2 * k, 2 * k) for k in range(1, 31)])
    assert [s.seconds for s in stretches([stream], 5)] == pytest.approx([0.1] * 5)


def test_tokens_that_come_in_bunches_do_not_bend_rounds() -> None:
    """Rounds of 1.45 ms, of which up to six are read within microseconds."""
    draw, streams = random.Random(3), list[Stream]()
    for _ in range(4):
        stream, read_s = Stream(0.0, 10), 0.0
        for made in range(1, 41):
            if draw.random() < 0.3:
                read_s = 0.5 + 0.00145 * made + draw.uniform(0.0, 0.002)
            read_s = max(read_s + 1e-6, 0.5 + 0.00145 * made - 0.004)
            stream.came.append((read_s, made))
        streams.append(stream)
    assert [s.seconds for s in stretches(streams, 8)] == pytest.approx([0.00145], rel=0.1)


class Wordy:
    """A server whose tokenizer makes three tokens of a word, and one more of any prompt."""

    def __init__(self, limit: int) -> None:
        self.limit, self.seen, self.keys = limit, list[int](), set[str | None]()

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.keys.add(request.headers.get("authorization"))
        body = await request.json()
        prompt = 3 * len(body["prompt"].split()) + 1
        self.seen.append(prompt)
        if prompt + body["max_tokens"] > self.limit:
            return web.json_response({"error": "maximum context length"}, status=400)
        response = web.StreamResponse()
        await response.prepare(request)
        for made in range(1, body["max_tokens"] + 1):
            usage = {"prompt_tokens": prompt, "completion_tokens": made}
            event = {"choices": [{"text": "a"}], "usage": usage}
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        return response

    async def measure(self, shapes: Shapes) -> list[Sample]:
        app = web.Application()
        app.router.add_post("/v1/completions", self.complete)
        async with TestServer(app) as server:
            url = f"http://127.0.0.1:{server.port}"
            return await measure(HttpProbe(url, "m", shapes, 0, "key-1"))


def test_prompts_are_as_long_in_tokens_as_they_should_be() -> None:
    shapes = Shapes(4, 16_384, 1024, 2, mixed=False)
    server = Wordy(1024)
    samples = asyncio.run(server.measure(shapes))
    prompts = sorted({s.prompt_tokens for s in samples if s.action is Action.PREFILL})
    assert prompts == pytest.approx(shapes.prompts, rel=0.1, abs=3)
    assert max(server.seen) == pytest.approx(768, rel=0.02)
    assert server.keys == {"Bearer key-1"}


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["makespan", *arguments])
    main()


COST = json.dumps(TRUTH.to_ms())


def test_the_file_is_a_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plot = tmp_path / "mine.json", tmp_path / "mine.svg"
    flags = ["--engine", "emulated", "--cost", COST, "--rounds", "2", "--slots", "4", "--json"]
    command(monkeypatch, "calibrate", *flags, "--out", str(out), "--plot", str(plot))
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(out.read_text())
    assert (told["name"], told["engine"], told["slots"]) == ("mine", "emulated", 4)
    known = hardware(str(out))
    assert (known.slots, known.kv_tokens) == (4, 16_384)
    for sample in measured(NoisyEngine(TRUTH, 0.0)):
        assert sample.predicted_s(known.cost) == pytest.approx(sample.seconds, rel=0.01)
    dots = ET.fromstring(plot.read_text()).findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(dots) >= told["samples"]
    for command_ in (AgentSettings, UpSettings):
        assert load(command_, ["--cost", str(out)]).cost == str(out)
    load(GatewaySettings, ["--worker", "http://a:1", "--plain-cost", str(out)])
    load(SimulateSettings, ["--requests", "x.csv", "--cost", str(out)])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "No such file"),
        ("{", "Expecting property name"),
        ("[]", "no JSON object"),
        ("{}", "cost_ms is missing"),
        ('{"cost_ms": 3}', "cost_ms: not a cost model: 3"),
        ('{"cost_ms": {"alpha_p_ms": 1, "beta_p_ms": 1, "alpha_d_ms": 1}}', "beta_d_ms is missing"),
        (
            '{"cost_ms": {"alpha_p_ms": -1, "beta_p_ms": 1, "alpha_d_ms": 1, "beta_d_ms": 1}}',
            "alpha_p_ms must be a number from 0 to 3.6e+06 ms, not -1",
        ),
        (
            '{"cost_ms": {"alpha_p_ms": 1, "beta_p_ms": NaN, "alpha_d_ms": 1, "beta_d_ms": 1}}',
            "beta_p_ms must be a number from 0 to 3.6e+06 ms, not nan",
        ),
        (
            '{"cost_ms": {"alpha_p_ms": 1, "beta_p_ms": "x", "alpha_d_ms": 1, "beta_d_ms": 1}}',
            "beta_p_ms must be a number from 0 to 3.6e+06 ms, not 'x'",
        ),
        (f'{{"slots": 0, "cost_ms": {COST}}}', "slots must be a whole number above 0, not 0"),
        (f'{{"kv_tokens": "a", "cost_ms": {COST}}}', "kv_tokens must be a whole number"),
    ],
)
def test_a_bad_profile_is_named(tmp_path: Path, text: str | None, complaint: str) -> None:
    path = tmp_path / "bad.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadSettings, match=rf"cost: .*bad\.json: .*{re.escape(complaint)}"):
        load(AgentSettings, ["--cost", str(path)])
    with pytest.raises(BadSettings, match=re.escape(complaint)):
        load(SimulateSettings, ["--requests", "x.csv", "--cost", str(path)])


def test_an_unknown_profile_tells_what_there_is() -> None:
    with pytest.raises(BadSettings, match=r"no profile 'nope'; give JSON, a profile's file.*opt"):
        load(GatewaySettings, ["--worker", "http://a:1", "--plain-cost", "nope"])


def test_an_agent_takes_json() -> None:
    assert hardware(load(AgentSettings, ["--cost", COST]).cost).cost.to_ms() == TRUTH.to_ms()


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--engine", "emulated", "--upstream", "http://a:1"],
        ["--engine", "emulated", "--max-model-len", "1024", "--kv-tokens", "512"],
        ["--engine", "emulated", "--plot", "a.json", "--out", "a.json"],
    ],
)
def test_bad_combinations_are_refused(flags: list[str]) -> None:
    with pytest.raises(BadSettings):
        load(CalibrateSettings, flags)


def test_a_server_is_measured_over_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An agent stands in for any server; on a busy machine it takes longer, and books that."""
    slow = TRUTH.scaled(5)
    flags = ("--cost", json.dumps(slow.to_ms()), "--slots", "8", "--max-model-len", "1024")
    with Process("agent", "--port", "0", *flags) as agent:
        url = agent.wait_for(r"(http://[^\s/,]+)")
        model = ["--model", "llama-65b", "--upstream", url]
        sizes = ["--slots", "4", "--rounds", "3", "--max-model-len", "512"]  # of 8, 131,072, 1,024
        out = tmp_path / "p.json"
        command(monkeypatch, "calibrate", *model, *sizes, "--json", "--out", str(out))
        spent = scrape(url).values
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    limits = ("slots", "kv_tokens", "max_model_len", "max_batched_tokens")
    assert [told[name] for name in limits] == [8, 131_072, 1024, None]
    assert "does not tell its max batched tokens" in printed.err
    assert "--prefill-budget" in printed.err
    assert "does not tell its slots" not in printed.err
    assert told["engine"] == "openai"
    assert told["samples"] > 20
    total, rounds = (
        spent[f'makespan_iteration_duration_seconds_{part}{{kind="decode"}}']
        for part in ("sum", "count")
    )
    found = hardware(str(out)).cost.decode_s(2, 200)
    assert slow.decode_s(2, 200) / 2 < found < 3 * total / rounds


VLLM = b"""# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
vllm:num_requests_running{engine="0",model_name="m"} 0.0
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="8000"} 1.0
"""
VLLM_INFO = {
    "vllm_config": {
        "model_config": {"max_model_len": 4096},
        "scheduler_config": {"max_num_seqs": 256, "max_num_batched_tokens": 8192},
    },
    "vllm_env": {"VLLM_SERVER_DEV_MODE": True},
}
SGLANG = b"sglang:num_running_reqs 0\nsglang:num_queue_reqs 0\nsglang:max_running_requests 96\n"
SGLANG_INFO = {
    "max_total_num_tokens": 400_000,
    "max_running_requests": None,
    "max_prefill_tokens": 16_384,
    "context_length": 32_768,
    "internal_states": [{"max_running_requests": 48}],
}
ODD_INFO = {"max_num_seqs": -1, "a": {"max_num_seqs": True}, "b": [{"max_num_seqs": 10**40}]}


@pytest.mark.parametrize(
    ("pages", "limits"),
    [
        ({}, Limits()),
        ({"/metrics": VLLM}, Limits(None, 127_984)),
        (
            {"/metrics": VLLM, "/v1/models": {"data": [{"id": "m", "max_model_len": 2048}]}},
            Limits(None, 127_984, None, 2048),
        ),
        (
            {"/metrics": VLLM, "/server_info": VLLM_INFO},
            Limits(256, 127_984, 8192, 4096),
        ),
        (
            {"/metrics": SGLANG, "/get_server_info": SGLANG_INFO},
            Limits(96, 400_000, 16_384, 32_768),
        ),
        ({"/server_info": SGLANG_INFO}, Limits(48, 400_000, 16_384, 32_768)),
        ({"/v1/models": {"data": [{"id": "else", "max_model_len": 7}, 3]}}, Limits()),
        ({"/v1/models": {"data": {}}, "/server_info": ODD_INFO, "/metrics": b"\xff\n{"}, Limits()),
        ({"/server_info": b"<html>", "/makespan/v1/state": b"{}\n"}, Limits()),
    ],
)
def test_a_server_tells_its_limits(pages: dict[str, Any], limits: Limits) -> None:
    async def page(request: web.Request) -> web.Response:
        if request.path not in pages:
            raise web.HTTPNotFound
        found = pages[request.path]
        return web.Response(body=found if isinstance(found, bytes) else json.dumps(found).encode())

    async def read() -> Limits:
        app = web.Application()
        app.router.add_get("/{path:.*}", page)
        async with TestServer(app) as server, ClientSession() as session:
            return await limits_of(session, f"http://127.0.0.1:{server.port}", "m")

    assert asyncio.run(read()) == limits


def test_what_nobody_tells_is_as_given() -> None:
    flags = ["--upstream", "http://127.0.0.1:9", "--max-batched-tokens", "4096", "--slots", "32"]
    settings = load(CalibrateSettings, flags)
    limits = _limits(settings)
    assert limits == Limits(32, None, 4096, None)
    said = list(_untold(settings, limits))
    assert ["kv tokens" in said[0], "--kv-tokens" in said[0]] == [True, True]
    assert "--max-model-len" in said[1]
    assert len(said) == 2


def test_a_profile_bounds_an_iteration(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(f'{{"max_batched_tokens": 2048, "cost_ms": {COST}}}')
    simulated = load(SimulateSettings, ["--requests", "x.csv", "--cost", str(path)])
    assert setting(simulated, []).prefill_budget == 2048
    flags = ["--requests", "x.csv", "--cost", str(path), "--prefill-budget", "512"]
    assert setting(load(SimulateSettings, flags), []).prefill_budget == 512


def test_a_server_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "p.json")
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, "calibrate", "--upstream", "http://127.0.0.1:9", "--out", out)
    assert stopped.value.code == 2
    assert "upstream: http://127.0.0.1:9" in capsys.readouterr().err
