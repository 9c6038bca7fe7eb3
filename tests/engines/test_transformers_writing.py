"""What a request may ask of its answer's text and its prompt, and what is refused by name."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from router.agent.engines.base import Engine
from router.http.errors import RequestError
from tests.engines.test_transformers import jobs, run, said, texts

pytestmark = pytest.mark.skipif(
    find_spec("transformers") is None, reason="needs `make transformers`"
)

HI = [{"role": "user", "content": "Hi"}]


def test_a_stop_string_is_told_where_it_is_wanted(engine: Engine) -> None:
    body = {"prompt": "def hello(", "max_tokens": 40, "ignore_eos": True}
    (whole,) = jobs(engine, [body])
    run(engine, [whole], "adaptive")
    text = said(whole)[0]
    stop = text[20:25]
    (cut,) = jobs(engine, [{**body, "stop": stop, "include_stop_str_in_output": True}])
    run(engine, [cut], "adaptive")
    answer, ends = asyncio.run(texts(cut))
    assert answer == [text[: text.index(stop) + len(stop)]]
    assert ends == ["stop"]


def test_a_stop_token_ends_the_answer_before_it(engine: Engine) -> None:
    body = {"prompt": "x", "max_tokens": 9, "logit_bias": {"50": 100}, "ignore_eos": True}
    stop = {**body, "stop_token_ids": [7, 50]}
    told = {**stop, "include_stop_str_in_output": True}
    held = {**stop, "min_tokens": 3, "logit_bias": {"50": 100, "60": 90}}
    work = jobs(engine, [body, stop, told, held])
    run(engine, work, "adaptive")
    (always, never, once, later) = (asyncio.run(texts(job)) for job in work)
    word = always[0][0][: len(always[0][0]) // 9]
    assert always == ([word * 9], ["length"])
    assert never == ([""], ["stop"])
    assert once == ([word], ["stop"])
    assert later[1] == ["stop"]
    assert word not in later[0][0]
    assert later[0][0]


def test_special_tokens_are_told_where_they_are_wanted(engine: Engine) -> None:
    body = {"prompt": "x", "max_tokens": 3, "logit_bias": {"0": 100}}
    work = jobs(engine, [body, {**body, "skip_special_tokens": False}])
    run(engine, work, "adaptive")
    assert [said(job) for job in work] == [[""], ["<s><s><s>"]]


@pytest.mark.parametrize(
    ("options", "prompt"),
    [
        ({}, "<s>user: Hi\n<s>assistant:"),
        ({"add_generation_prompt": False}, "<s>user: Hi\n"),
        ({"continue_final_message": True}, "<s>user: Hi"),
        ({"chat_template_kwargs": {"mood": "kind"}}, "(kind)<s>user: Hi\n<s>assistant:"),
    ],
)
def test_a_chats_prompt_is_written_as_it_wants(
    engine: Engine, model: Path, options: dict[str, Any], prompt: str
) -> None:
    from transformers import AutoTokenizer

    (job,) = jobs(engine, [{"messages": HI, **options}])
    ids = AutoTokenizer.from_pretrained(model)(prompt, add_special_tokens=False)["input_ids"]
    (answer,) = job.answers
    assert answer.ids == ids  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"prompt": "x", "temperature": -1}, "temperature"),
        ({"prompt": "x", "top_p": 2}, "top_p"),
        ({"prompt": "x", "seed": 1.5}, "seed"),
        ({"prompt": "x", "logit_bias": {"9999": 1}}, "9999"),
        ({"prompt": "x", "logprobs": 99}, "logprobs"),
        ({"prompt": "x", "echo": True}, "echo"),
        ({"prompt": [5000]}, "token above"),
        ({"prompt": ""}, "no token"),
        ({"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2}, "top_logprobs"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": [{}]}, "tools"),
        ({"messages": [{"role": "x", "content": "x"}]}, "unknown role x"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "image_url",
        ),
        ({"prompt": "x", "response_format": {"type": "json_object"}}, "response_format"),
        ({"prompt": "x", "allowed_token_ids": [5]}, "allowed_token_ids"),
        ({"prompt": "x", "bad_words": ["no"]}, "bad_words"),
        ({"prompt": "x", "length_penalty": 1.5}, "length_penalty"),
        ({"prompt": "x", "truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
        ({"prompt": "x", "stop_token_ids": [4096]}, "stop_token_ids"),
        ({"prompt": "x", "stop_token_ids": "50"}, "stop_token_ids"),
        ({"prompt": "x", "skip_special_tokens": "no"}, "skip_special_tokens"),
        ({"prompt": "x", "include_stop_str_in_output": 1}, "include_stop_str_in_output"),
        ({"messages": HI, "chat_template": "{{ messages }}"}, "chat_template"),
        ({"messages": HI, "chat_template_kwargs": 3}, "chat_template_kwargs"),
        ({"messages": HI, "chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs"),
        (
            {"messages": HI, "continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
        ),
        ({"prompt": "x", "logit_bias": {"5": 1000}}, "logit_bias"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    engine: Engine, body: dict[str, Any], named: str
) -> None:
    with pytest.raises(RequestError, match=named):
        jobs(engine, [body])
