"""Other projects' programs: found on this machine, or put into a cache folder by their names.

Nothing is installed into the system or into this project's environment: packages of Python's index
get an environment each, a Debian package is unpacked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# The versions that figures are told of.
PYTHON: Mapping[str, str] = {"sglang-router": "0.3.2", "smg": "1.13.0"}
# Those that need no library beyond what every Debian has; others must be on the path.
DEBIAN = ("nginx",)
ANYWHERE = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))


class NotHadError(Exception):
    """A program that this machine cannot have; the message says why, and what would help."""


def cache() -> Path:
    """Where programs are kept from one measurement to the next."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "makespan" / "peers"


def program(name: str) -> str:
    """The path of a program, which is fetched if it is not there.

    Raises:
        NotHadError: if it can be neither found nor fetched.
    """
    found = installed(name)
    if found is None:
        try:
            _fetch(name)
        except OSError as error:
            raise NotHadError(f"{name} cannot be had: {error}") from error
        found = installed(name)
    if found is None:
        raise NotHadError(f"{name} is not on this machine: install it, so that it is on the path")
    return found


def installed(name: str) -> str | None:
    """The path of a program that is there."""
    if name in PYTHON:
        path = _environment(name) / "bin" / name
        return str(path) if (_environment(name) / "complete").exists() else None
    return shutil.which(name, path=os.pathsep.join((ANYWHERE, str(cache() / name / "usr/sbin"))))


def version(name: str) -> str:
    """What figures should say that they are of."""
    if name in PYTHON:
        return PYTHON[name]
    told = subprocess.run([program(name), "-v"], capture_output=True, text=True, check=False)
    words = (told.stdout + told.stderr).replace("/", " ").split()
    return next((word for word in words if word[0].isdigit()), "of unknown version")


def _fetch(name: str) -> None:
    if name in PYTHON:
        _from_index(name)
    elif name in DEBIAN:
        _from_debian(name)


def _environment(name: str) -> Path:
    return cache() / f"{name}-{PYTHON[name]}"


def _from_index(name: str) -> None:
    folder = _environment(name)
    _run(name, [sys.executable, "-m", "venv", str(folder)])
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    _run(name, [*pip, "--disable-pip-version-check", f"{name}=={PYTHON[name]}"])
    (folder / "complete").touch()


def _from_debian(name: str) -> None:
    """Download its package and unpack it, which takes no rights and starts no service."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return
    folder = cache() / name
    folder.mkdir(parents=True, exist_ok=True)
    _run(name, ["apt-get", "download", "--quiet", name], folder)
    for package in folder.glob("*.deb"):
        _run(name, ["dpkg", "-x", str(package), str(folder)])
        package.unlink()
    _run(name, [installed(name) or name, "-v"])


def _run(name: str, command: Sequence[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()
        raise NotHadError(f"{name} cannot be had: {' '.join(command[:4])} failed: {said[-1]}")
