"""A vLLM that publishes what it caches, with a tiny model and little memory: it evicts.

It is stock, from `.venv-vllm` (`make .venv-vllm/.ready`), whoever asks for it.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.engines.tiny_model import LONGEST, made_up
from tests.engines.vllm_runs import ENVIRONMENT, stop
from tests.helpers import ROOT

PYTHON = ROOT / ".venv-vllm/bin/python"
# Of memory of each rank, and tokens in each: vLLM has 16 on GPUs, and 32 at least on CPUs.
BLOCKS, BLOCK_TOKENS, SLOTS = 128, 32, 4
NEVER_GIVEN = 20_000, 32_000  # ports
LINES = made_up(random.Random(0))  # as the tokenizer was made from


def text(rng: random.Random, words: int) -> str:
    """So many words; a word has about two tokens."""
    lines = (rng.choice(LINES).split() for _ in range(1 + words // 20))
    return " ".join([word for line in lines for word in line][:words]) + "\n"


@contextmanager
def serving(ranks: int = 1) -> Iterator[str]:
    """Its URL, once it answers, with so many data-parallel ranks, each with ports of its own."""
    port = _free_range(1 + 2 * ranks)
    events, replays = port + 1, port + 1 + ranks
    config = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"tcp://*:{events}",
        "replay_endpoint": f"tcp://*:{replays}",
    }
    with TemporaryDirectory() as folder:
        model, log = Path(folder) / "model", Path(folder) / "log"
        subprocess.run([PYTHON, "-m", "tests.engines.tiny_model", model], cwd=ROOT, check=True)
        command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--enforce-eager", "--dtype", "float32", "--max-model-len", str(LONGEST)]
        command += ["--max-num-seqs", str(SLOTS), "--data-parallel-size", str(ranks)]
        command += ["--num-gpu-blocks-override", str(BLOCKS), "--block-size", str(BLOCK_TOKENS)]
        command += ["--kv-events-config", json.dumps(config), "--enable-prompt-tokens-details"]
        environment = {**os.environ, **ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
        with log.open("wb") as file:
            server = subprocess.Popen(
                command, env=environment, stdout=file, stderr=file, start_new_session=True
            )
        try:
            while not _healthy(port):
                if server.poll() is not None:
                    raise SystemExit(log.read_text(errors="replace")[-20_000:])
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            stop(server)


def _free_range(count: int) -> int:
    """The first of so many ports, one after the other, that nobody listens on now.

    A server binds them half a minute later: they are none of those that whoever connects is given.
    """
    rng = random.Random()
    while True:
        first = rng.randrange(*NEVER_GIVEN)
        try:
            with ExitStack() as stack:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
        except OSError:
            continue
        return first


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except OSError:
        return False
