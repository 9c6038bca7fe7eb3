"""Settings: file below environment below flags, and a bad one names itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from router.agent.engines.emulated.lengths import read_lengths
from router.children import flags
from router.settings.agent import AgentSettings
from router.settings.base import BadSettings, Settings
from router.settings.calibrate import CalibrateSettings
from router.settings.commands import all_settings, known_environment, load
from router.settings.gateway import GatewaySettings
from router.settings.keys import KeySettings
from router.settings.targets import read_targets, write_targets
from router.settings.up import UpSettings
from solver.batching.priority import Priority
from solver.batching.targets import DEFAULT_TARGETS, NO_TARGETS, Targets

ONE = ["--worker", "http://a:1"]
REAL = ["--engine", "transformers", "--model", "x"]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "makespan.toml"
    monkeypatch.setenv("MAKESPAN_CONFIG", str(path))
    return path


def test_flags_over_environment_over_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("[gateway]\nport = 1\nretries = 1\nremember = 1\n")
    monkeypatch.setenv("MAKESPAN_PORT", "2")
    monkeypatch.setenv("MAKESPAN_RETRIES", "2")
    settings = load(GatewaySettings, [*ONE, "--port", "3"])
    assert (settings.port, settings.retries, settings.remember) == (3, 2, 1)
    assert settings.window_max_wait_s == 0.02


def test_a_flag_names_the_file_and_wins_over_the_variable(config: Path, tmp_path: Path) -> None:
    """Children are told what was in it, and read none themselves."""
    config.write_text("[gateway]\nport = 1\n")
    other = tmp_path / "other.toml"
    other.write_text(
        "[gateway]\nworker = ['http://a:1']\nport = 2\nremember = 2\n[agent]\nport = 9\n"
    )
    for way in (["--config", str(other)], [f"--config={other}"]):
        settings = load(GatewaySettings, [*way, "--remember", "3"])
        assert (settings.worker, settings.port, settings.remember) == (("http://a:1",), 2, 3)
    told = flags(settings, settings.model_fields_set)
    assert load(GatewaySettings, told).port == 2
    assert "--config" not in told
    other.write_text("[gateway]\nprot = 1\n")
    with pytest.raises(BadSettings, match=r"^\S+/other.toml: \[gateway\] prot: not known; "):
        load(GatewaySettings, [*ONE, "--config", str(other)])
    with pytest.raises(BadSettings, match="nowhere"):
        load(GatewaySettings, [*ONE, "--config", "nowhere"])


def test_several_workers_by_comma_or_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ("http://a:1", "http://b:2")
    assert load(GatewaySettings, ["--worker", "http://a:1/,http://b:2"]).worker == wanted
    flags = ["--worker", "http://a:1", "--worker", "http://b:2"]
    assert load(GatewaySettings, flags).worker == wanted
    monkeypatch.setenv("MAKESPAN_WORKER", "http://a:1,http://b:2")
    assert load(GatewaySettings, []).worker == wanted


def test_workers_may_be_urls_names_and_services() -> None:
    services = ("kubernetes://llm/agents:http", "https+kubernetes:///agents:8100")
    named = ("http://a:1", "dns://agents.llm:8100", *services)
    assert load(GatewaySettings, ["--worker", ",".join(named)]).worker == named


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("none", NO_TARGETS),
        ("ttft=1.5s", Targets(ttft_s=1.5)),
        ("tpot=50ms", Targets(tpot_s=0.05)),
        (" tpot=50ms, ttft=1min", Targets(60.0, 0.05)),
    ],
)
def test_targets_are_set_by_priority(text: str, targets: Targets) -> None:
    for priority in Priority:
        settings = load(GatewaySettings, [*ONE, f"--targets-{priority.value}", text])
        assert settings.targets() == {**DEFAULT_TARGETS, priority: targets}
    assert read_targets(write_targets(targets)) == targets


def test_speeds_are_dealt_out() -> None:
    assert load(UpSettings, ["--speed", "24,8"]).speed == (24.0, 8.0)


@pytest.mark.parametrize(
    ("command", "flags", "complaint"),
    [
        (GatewaySettings, ["--port", "70000"], "port"),
        (GatewaySettings, ["--port", "x"], "port"),
        (GatewaySettings, ["--worker", "no-url"], "no-url is not like http://10.0.0.5:8000"),
        (GatewaySettings, ["--worker", "10.0.0.5:81"], "10.0.0.5:81 is not like http://10.0"),
        (GatewaySettings, ["--window-max-size", "0"], "window_max_size"),
        (GatewaySettings, [], "worker"),
        (GatewaySettings, ["--worker", ""], "worker"),
        (GatewaySettings, ["--worker", "http://a:1,http://a:1/"], "http://a:1 is there twice"),
        (GatewaySettings, ["--worker", "http://a:1/?q=1"], "no query"),
        (GatewaySettings, ["--worker", "dns://agents"], "dns://agents is not like dns://NAME:PORT"),
        (GatewaySettings, ["--worker", "dns://a..b:80"], "dns://a..b:80 is not like"),
        (GatewaySettings, ["--worker", "https+dns://a"], r"https\+dns://a is not like"),
        (GatewaySettings, ["--worker", "https+http://a:1"], "URL scheme should be"),
        (GatewaySettings, ["--worker", "dns://agents:70000"], "70000 is no port"),
        (GatewaySettings, ["--worker", "dns://a:1,dns://a:01"], "dns://a:1 is there twice"),
        (GatewaySettings, ["--worker", "kubernetes://agents:80"], "is not like kubernetes://"),
        (GatewaySettings, ["--worker", "kubernetes://llm/agents:0"], "0 is no port"),
        (
            GatewaySettings,
            ["--worker", "kubernetes://LLM/agents:http"],
            "is not like kubernetes://",
        ),
        (GatewaySettings, ["--drain-s", "inf"], "drain_s"),
        (GatewaySettings, ["--admission", "drop"], "admission: .*'timely' or 'shed'"),
        (GatewaySettings, ["--targets-default", "ttft=2"], "targets_default: '2' is no duration"),
        (GatewaySettings, ["--targets-bulk", "e2e=2s"], "targets_bulk: 'e2e=2s' are no targets"),
        (GatewaySettings, ["--targets-bulk", ""], "targets_bulk: '' are no targets"),
        (GatewaySettings, ["--targets-interactive", "tpot=1s,tpot=2s"], "has tpot twice"),
        (GatewaySettings, ["--targets-interactive", "ttft=200h"], "'200h' is longer than a week"),
        *(
            (GatewaySettings, [*ONE, "--allowed-origins", origin], f"allowed_origins.*{told}")
            for origin, told in (
                ("foo", "foo is not like https"),
                ("https://a/chat", "https://a/chat is not like"),
                ("https://", "https:// "),
                ("https://a,b", "b is not like"),
            )
        ),
        (GatewaySettings, [*ONE, "--alias", "a=m,b=a"], "b stands for a, which is no model"),
        (GatewaySettings, [*ONE, "--alias", "a=b,b=a"], "a stands for b, which is no model"),
        (KeySettings, ["new", "--tenant", "a", "--models", ""], "models: none are named"),
        (KeySettings, ["new", "--tenant", "a", "--models", ","], "models: none are named"),
        (UpSettings, ["--agent-port", "65534", "--agents", "4"], "agent_port: 4 agents"),
        (UpSettings, ["--speed", "inf"], "speed"),
        (AgentSettings, ["--policy", "magic"], "policy"),
        (AgentSettings, ["--cost", "free"], "cost"),
        (AgentSettings, ["--speed", "0"], "speed"),
        (AgentSettings, ["--name", "no spaces"], "name"),
        (AgentSettings, ["--max-model-len", "9000", "--kv-tokens", "100"], "max_model_len"),
        (UpSettings, ["--speed", ""], "speed"),
        (UpSettings, ["--engine", "vllm"], "engine: .*'emulated' or 'transformers'"),
        (UpSettings, ["--speed", "-1"], "speed"),
        (UpSettings, ["--agents", "0"], "agents"),
        (UpSettings, [*REAL, "--speed", "1"], "speed: the engine transformers"),
        (AgentSettings, [*REAL, "--speed", "20"], "speed: the engine transformers"),
        (AgentSettings, ["--engine", "transformers"], "model: .* a folder or a hub name"),
        (UpSettings, ["--engine", "transformers"], "model: .* a folder or a hub name"),
        (CalibrateSettings, ["--engine", "transformers"], "model: .* a folder or a hub name"),
        (
            AgentSettings,
            ["--engine", "vllm", "--upstream", "http://a:1", "--speed", "2"],
            "speed: the engine vllm",
        ),
        *(
            (AgentSettings, ["--engine", "openai", "--upstream", upstream], "^upstream: ")
            for upstream in ("ftp://x", "nonsense")
        ),
    ],
)
def test_bad_flags_name_themselves(
    command: type[Settings], flags: list[str], complaint: str
) -> None:
    with pytest.raises(BadSettings, match=complaint):
        load(command, flags)


@pytest.mark.parametrize(
    "flags",
    [
        ["--alias", "m=m:0.9,new:0.1,chat=m"],
        ["--allowed-origins", "https://a.example:8443/,http://[::1]:3000,*"],
        ["--allowed-origins", ""],
    ],
)
def test_what_makes_sense_is_taken(flags: list[str]) -> None:
    """An alias may be the name of one of its models, which others may mean."""
    load(GatewaySettings, [*ONE, *flags])


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400"])
def test_every_number_is_finite(value: str) -> None:
    """Of all commands that have one; a number that is none would pass any comparison, or none."""
    seen = 0
    for settings in all_settings():
        for name, field in settings.model_fields.items():
            if field.annotation in (float, float | None):
                with pytest.raises(ValidationError) as refused:
                    settings(**{name: value})  # type: ignore[arg-type]
                found = [one["type"] for one in refused.value.errors() if one["loc"] == (name,)]
                assert found, f"{settings.table}: {name}"
                seen += 1
    assert seen > 20


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKESPAN_PROT", "1")
    with pytest.raises(BadSettings, match="MAKESPAN_PROT: unknown environment variable"):
        load(GatewaySettings, ONE)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[gateway]\nprot = 1\n", r"^\S+/makespan.toml: \[gateway\] prot: not known; "),
        ("[gateway]\nport = 'x'\n", r"^\S+/makespan.toml: \[gateway\] port: "),
        ("[gateway]\nretries = 1\ndrain_s = -1\n", r"^\S+ \[gateway\] drain_s: .* or equal to 0"),
        ("[gatway]\nport = 1\n", "gatway: not one of the tables"),
        ("port = 1\n", "port: not one of the tables"),
        ("[gateway\n", r"^config: \S+/makespan.toml: "),
        ("[gateway]\nconfig = 'x'\n", r"makespan.toml: \[gateway\] config: "),
        ("x = " + "[" * 5000, r"^config: \S+/makespan.toml: "),
    ],
)
def test_a_bad_file_is_named(config: Path, text: str, complaint: str) -> None:
    config.write_text(text)
    with pytest.raises(BadSettings, match=complaint):
        load(GatewaySettings, ONE)


def test_a_flag_that_is_wrong_is_not_the_file_s(config: Path) -> None:
    config.write_text("[gateway]\nport = 1\n")
    with pytest.raises(BadSettings, match=r"^port: "):
        load(GatewaySettings, [*ONE, "--port", "70000"])


def test_a_missing_file_is_named(config: Path) -> None:
    with pytest.raises(BadSettings, match=config.name):
        load(GatewaySettings, ONE)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load(GatewaySettings, ONE).port = 9


@pytest.mark.parametrize("command", all_settings())
def test_help_calls_values_by_what_they_mean_to_people(
    command: type[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        load(command, ["--help"])
    named = re.findall(r"^  --[a-z-]+ (\S+)", capsys.readouterr().out, re.MULTILINE)
    assert named
    for one in named:
        word = one.removesuffix(",...")
        assert word.isupper() or re.fullmatch(r"\{.*\}", word), one


@pytest.mark.parametrize("command", all_settings())
def test_help_shows_defaults_as_they_would_be_given(
    command: type[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        load(command, ["--help"])
    shown = re.findall(r"\(default: (.*?)\)", " ".join(capsys.readouterr().out.split()))
    assert shown
    assert not {"None", "", "("} & {one[:1] if one[:1] == "(" else one for one in shown}


def test_help_tells_folders_from_files(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        load(GatewaySettings, ["--help"])
    told = capsys.readouterr().out
    assert "--data DIR" in told
    assert "--keys FILE" in told


def test_every_setting_says_what_it_is() -> None:
    for command in all_settings():
        for name, field in command.model_fields.items():
            assert field.description, f"{command.__name__}.{name}"
    assert {"MAKESPAN_PORT", "MAKESPAN_SPEED", "MAKESPAN_CONFIG"} <= known_environment()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nonsense\n", ":1: expected"),
        ('\n{"prompt_sha256": "a"}\n', ":2: expected"),
        ('{"prompt_sha256": "a", "output_tokens": 0}\n', "at least 1"),
    ],
)
def test_a_bad_file_of_lengths_names_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "lengths.jsonl"
    path.write_text(text)
    with pytest.raises(BadSettings, match=complaint):
        read_lengths(path)


def test_lengths_are_read(tmp_path: Path) -> None:
    path = tmp_path / "lengths.jsonl"
    path.write_text('{"prompt_sha256": "a", "output_tokens": 3}\n\n')
    assert read_lengths(path) == {"a": 3}
    with pytest.raises(BadSettings, match="No such file"):
        read_lengths(tmp_path / "none")


def test_a_wrong_part_is_told_once() -> None:
    with pytest.raises(BadSettings) as caught:
        load(GatewaySettings, ["--worker", "foo"])
    assert str(caught.value).startswith("worker.0: ")
    assert ";" not in str(caught.value)


def test_single_plain_workers_have_slots_of_their_own_and_v1_at_the_end_is_understood() -> None:
    settings = GatewaySettings(  # type: ignore[call-arg]
        worker="http://a:1/v1,http://b:2/v1/,http://c:3/llm/v1",  # type: ignore[arg-type]
        plain_slots=8,
        plain_slots_of="http://b:2=3,http://c:3/llm/v1=5",  # type: ignore[arg-type]
    )
    assert settings.worker == ("http://a:1", "http://b:2", "http://c:3/llm")
    known = [settings.slots_of(url) for url in settings.worker]
    assert [one.slots for one in known] == [8, 3, 5]
    assert [one.known for one in known] == ["assumed", "set", "set"]


@pytest.mark.parametrize("wrong", ["http://b:2", "http://b:2=0", "http://b:2=many", "=3", "b=3"])
def test_slots_that_make_no_sense_are_named(wrong: str) -> None:
    with pytest.raises(ValidationError, match="plain_slots_of"):
        GatewaySettings(worker="http://b:2", plain_slots_of=wrong)  # type: ignore[arg-type,call-arg]


@pytest.mark.parametrize("wrong", ["ftp://b=f", "http://=f", "http://b?x=f", "f,http://u@b=f"])
def test_a_key_of_no_worker_s_url_is_named(wrong: str) -> None:
    with pytest.raises(ValidationError, match="worker_key_file"):
        GatewaySettings(worker="http://b:2", worker_key_file=wrong)  # type: ignore[arg-type,call-arg]
