"""Many simulations, on all cores, with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from tqdm import tqdm

from router.solver_process import deaf_to_ctrl_c

A = TypeVar("A")
B = TypeVar("B")


def over(function: Callable[[A], B], items: Sequence[A], unit: str) -> list[B]:
    """``[function(item) for item in items]``, spread over processes; the bar counts `unit`.

    What goes in and comes out must be picklable. The first error ends it all, and so does the end
    of this process, however it comes.
    """
    processes = min(len(items), os.cpu_count() or 1)
    if processes <= 1:
        return [function(item) for item in tqdm(items, unit=f" {unit}", disable=None, leave=False)]
    results: dict[int, B] = {}
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(processes, context, _end_with_parent) as pool,
        tqdm(total=len(items), unit=f" {unit}", disable=None, leave=False) as bar,
    ):
        try:
            with deaf_to_ctrl_c():
                running = {pool.submit(function, item): k for k, item in enumerate(items)}
            for future in as_completed(running):
                results[running[future]] = future.result()
                bar.update()
        except BaseException:
            give_up(pool)
            raise
    return [results[k] for k in range(len(items))]


def give_up(pool: ProcessPoolExecutor) -> None:
    """End this process's children at once, whatever they do, and the pool with them."""
    for child in multiprocessing.active_children():
        child.terminate()
    pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """A parent that is killed cannot end its children: they wait for work that never comes."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
