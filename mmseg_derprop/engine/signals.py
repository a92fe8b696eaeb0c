"""Signals that ask a run to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INSIST = 2  # seconds after which a second Ctrl-C is one of its own; launchers pass the first one on


class StopSignals:
    """Notes the first SIGINT or SIGTERM, so that training can stop where its state is whole.

    A second Ctrl-C stops at once. Loader workers leave the decision to the main process (:func:`leave_signals`).
    ``receive`` is called at each signal, in the main thread, between any two of its instructions. While ``code``, that
    of the function that trains, does not run, signals do what they did before.
    """

    def __init__(self, receive: Callable[[], None], code: CodeType) -> None:
        self.receive, self.code = receive, code
        self.number = 0
        self._since = 0.0
        self._pid = os.getpid()
        self._previous: dict[int, Any] = {}

    def start(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}

    def stop(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a loader worker that has only begun
            return
        insists = number == signal.SIGINT == self.number and time.monotonic() - self._since > INSIST
        if insists or not _runs(self.code, frame):
            self.stop()
            os.kill(self._pid, number)
            return
        if not self.number:
            self.number, self._since = number, time.monotonic()
            name = signal.Signals(number).name
            os.write(2, f'\n{name}: saving a checkpoint, then stopping; Ctrl-C again to stop at once.\n'.encode())
        self.receive()


def leave_signals(init: Callable[[int], None] | None, worker: int) -> None:
    """The ``worker_init_fn`` of a loader whose workers leave signals to the main process; calls the loader's own first.

    Ctrl-C, and the SIGTERM of timeout, Slurm or systemd, reach all processes of a group. PyTorch's workers would end,
    and with them the main process, before it has saved. From the main process SIGTERM ends a worker as ever.
    """
    if init is not None:
        init(worker)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


def _runs(code: CodeType, frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None
