"""`makespan`, telling at SIGUSR1 how many tasks its event loop has.

python -m tests.counted gateway --port 0 ...
"""

from __future__ import annotations

import asyncio
import signal

from router.cli import main


def _tell(*_: object) -> None:
    print(f"tasks {len(asyncio.all_tasks())}", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _tell)
    main()
