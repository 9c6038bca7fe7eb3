"""Files that commands write are whole, or as they were."""

from pathlib import Path

import pytest

from router.cli import main
from router.files import writable
from router.settings.base import BadSettings


def test_what_was_there_stays_until_the_new_file_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text("old")
    path.chmod(0o640)
    with writable(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def write_half(path: Path, error: type[BaseException]) -> None:
    with writable(path) as file:
        file.write(b"half")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "profile.json"
    path.write_text("old")
    with pytest.raises(error):
        write_half(path, error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with writable(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_device_takes_what_it_is_given() -> None:
    with writable(Path("/dev/null")) as file:
        file.write(b"gone")
    with (
        pytest.raises(BadSettings, match="/dev/full: No space left"),
        writable(Path("/dev/full")) as file,
    ):
        file.write(b"too much")


@pytest.mark.parametrize("name", ["", "no/where.json"])
def test_what_cannot_be_written_is_named_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(BadSettings, match=str(path)), writable(path):
        pytest.fail("it was opened")


def test_calibrate_leaves_a_profile_alone_if_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text("{}")
    command = f"makespan calibrate --upstream http://127.0.0.1:9 --model m --out {profile}"
    monkeypatch.setattr("sys.argv", command.split())
    with pytest.raises(SystemExit, match="2"):
        main()
    assert profile.read_text() == "{}"
    assert list(tmp_path.iterdir()) == [profile]
