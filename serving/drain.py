"""How a worker leaves: not ready first, then whoever still comes is answered and sent away, then it ends.

uvicorn alone stops to listen at once: what clients or a load balancer send over connections that it closes at that
moment is lost, and nobody was told to go elsewhere.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import signal
import sys
import threading
from typing import Any

from serving.opened import Opened

PR_SET_PDEATHSIG = 1  # prctl(2)

logger = logging.getLogger("bentoml.serve")


def drain_on_sigterm(opened: Opened, seconds: float) -> None:
    """Called on the event loop, once uvicorn has set its own handler, which still has the last word."""
    if threading.current_thread() is not threading.main_thread():
        return  # in somebody's test client: the signals are not ours
    leave: Any = signal.getsignal(signal.SIGTERM)
    loop = asyncio.get_running_loop()

    def begin() -> None:
        if opened.draining:
            return
        opened.draining = True
        logger.info("SIGTERM: not ready any more, ending in %g s", seconds)
        loop.call_later(seconds, leave, signal.SIGTERM, None)

    loop.add_signal_handler(signal.SIGTERM, begin)


def leave_with_the_supervisor() -> None:
    """SIGTERM, too, where the process that began this one is killed: nobody would replace a worker any more, and those
    that are left would hold the port. Linux alone does it; elsewhere they answer until somebody ends them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
