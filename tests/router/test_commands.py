"""The table of commands: each is found by the name of its settings, and loads no other's."""

from __future__ import annotations

import subprocess
import sys
import typing
from pkgutil import resolve_name

import pytest

from router.commands import BENCHES, WORK, run
from router.settings.bench import BenchSettings
from router.settings.commands import SETTINGS, settings_of


@pytest.mark.parametrize("name", SETTINGS)
def test_each_command_has_its_settings_and_somebody_who_does_it(name: str) -> None:
    settings, work = settings_of(name), resolve_name(WORK[name])
    assert settings.table == name
    assert settings.__doc__
    takes = work.__annotations__["settings"]
    known = vars(sys.modules[work.__module__]) | {settings.__name__: settings}
    assert issubclass(settings, eval(takes, known))


def test_each_bench_has_somebody_who_does_it() -> None:
    field = BenchSettings.model_fields["what"].annotation
    assert set(typing.get_args(field)) == set(BENCHES)
    assert all(callable(resolve_name(one)) for one in BENCHES.values())


@pytest.mark.parametrize(("asked", "status"), [(["--help"], 0), ([], 2), (["sumbit"], 2)])
def test_a_group_lists_its_commands(
    asked: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=str(status)):
        run(["batch", *asked])
    told = capsys.readouterr()
    assert ("'sumbit'" in told.err) is (asked == ["sumbit"])
    listed = [line.split()[:2] for line in (told.err if status else told.out).splitlines()]
    assert listed[-6:] == [name.split() for name in SETTINGS if name.startswith("batch ")]
    assert not (status and told.out)


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        ("nothing", "'nothing'"),
        ("gateway", "worker: needed"),
        ("gateway --wroker http://a", "--wroker"),
        ("gateway --port", "--port"),
        ("gateway more --worker http://a", "more"),
        ("gateway --worker http://a --port x", "port: "),
        ("gateway --worker http://a --config nowhere", "config: nowhere: No such file"),
        ("agent --engine openai", "agent: upstream: "),
        ("bench", "WHAT"),
        ("plan --problem nowhere", "nowhere: No such file"),
        ("batch submit nowhere", "nowhere: No such file"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    asked: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(asked.split())
    told = capsys.readouterr()
    assert not told.out
    assert told.err.startswith("makespan")
    assert told.err.count("\n") == 1
    assert wrong in told.err


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("gateway", ["agent", "up", "replay", "batch", "calibrate"]),
        ("agent", ["gateway", "up", "replay", "batch", "calibrate"]),
        ("batch watch", ["gateway", "agent", "up", "replay"]),
    ],
)
def test_a_command_loads_no_others_settings(name: str, others: list[str]) -> None:
    code = (
        "import sys\nfrom router.commands import run\n"
        f"try: run({[*name.split(), '--help']!r})\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stderr.split()
    assert not [one for one in others if f"router.settings.{one}" in loaded]
    assert not [one for one in loaded if one.startswith(("router.gateway", "router.agent.app"))]
