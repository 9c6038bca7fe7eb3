"""Our policies inside vLLM: ``--scheduler-cls router.agent.engines.vllm.Makespan``.

To be imported in vLLM's own environment only. Nothing of vLLM's scheduler is imported before its
version is known to be one that this was tested with.
"""

import vllm

from router.agent.engines.vllm.settings import check_version

check_version(vllm.__version__)

from router.agent.engines.vllm.scheduler import Makespan  # noqa: E402

__all__ = ["Makespan"]
