"""Files that say how many tokens an emulated answer has."""

from __future__ import annotations

from pathlib import Path

import orjson

from router.settings.base import BadSettings


def read_lengths(path: Path) -> dict[str, int]:
    """Output tokens by the prompt's SHA-256, from JSON lines.

    Raises:
        BadSettings: naming the file and line that is wrong.
    """
    lengths: dict[str, int] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise BadSettings.of_file(path, error, "lengths") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
            key, tokens = str(row["prompt_sha256"]), int(row["output_tokens"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            message = 'expected {"prompt_sha256": "…", "output_tokens": N}'
            raise BadSettings(f"lengths: {path}:{number}: {message} ({error!r})") from error
        if tokens < 1:
            raise BadSettings(f"lengths: {path}:{number}: output_tokens must be at least 1")
        lengths[key] = tokens
    return lengths
