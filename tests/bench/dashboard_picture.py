"""Takes the picture of the dashboard in `router/README.md`, of a fleet under load.

python -m tests.bench.dashboard_picture
"""

from __future__ import annotations

import asyncio
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
from playwright.sync_api import sync_playwright

from tests.deploy.support import debian_tool
from tests.helpers import Fleet

PATH = Path(__file__).parents[2] / ".github" / "dashboard.png"
RATE, FOR_S = 7.0, 125.0  # requests a second: some two thirds of what these workers can do
FLAGS = ("--agents", "4", "--slots", "16", "--speed", "1.2,1,1,0.8")
SHARES = {"search": 6, "chat": 3, "batch-eval": 1}


async def load(url: str) -> None:
    """Streams that come by themselves, of several tenants."""
    rng, until = random.Random(5), time.monotonic() + FOR_S
    session = aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0))
    async with session, asyncio.TaskGroup() as group:
        while time.monotonic() < until:
            tenant = rng.choices(list(SHARES), list(SHARES.values()))[0]
            prompt = "word " * rng.randint(30, 500)
            group.create_task(ask(session, tenant, prompt, rng.randint(30, 320)))
            await asyncio.sleep(rng.expovariate(RATE))


async def ask(session: aiohttp.ClientSession, tenant: str, prompt: str, tokens: int) -> None:
    """One request."""
    body = {"model": "llama-65b", "prompt": prompt, "max_tokens": tokens, "stream": True}
    headers = {"x-makespan-tenant": tenant}
    async with session.post("/v1/completions", json=body, headers=headers) as answer:
        await answer.read()


def main() -> None:
    """Four workers of 16 slots, under load."""
    with Fleet(*FLAGS) as fleet, sync_playwright() as playwright, ThreadPoolExecutor(1) as pool:
        loading = pool.submit(asyncio.run, load(fleet.url))
        browser = playwright.chromium.launch(
            executable_path=debian_tool("chromium", "chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(fleet.url + "/")
        page.wait_for_timeout(1000 * (FOR_S - 5))
        page.screenshot(path=PATH)
        loading.result()


if __name__ == "__main__":
    main()
