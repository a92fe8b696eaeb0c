"""Signals reach a run that trains, and nobody else."""

import os
import signal
import time

import pytest

from mmseg_derprop.engine import signals
from mmseg_derprop.engine.signals import StopSignals


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture
def listening():
    """Numbers that were received so far, by signals of a function that runs what it is given."""
    found = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    received = []

    def train(act):
        act()

    stop = StopSignals(lambda: received.append(stop.number), train.__code__)
    stop.start()
    yield train, received, stop
    stop.stop()
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before
    signal.signal(signal.SIGINT, found)


def test_noted_while_training(listening, capfd):
    """Launchers pass on what was received before."""
    train, received, _ = listening
    train(lambda: (send(signal.SIGINT), send(signal.SIGINT), send(signal.SIGTERM)))
    assert received == [signal.SIGINT] * 3
    assert 'SIGINT: saving a checkpoint' in capfd.readouterr().err


def test_a_second_ctrl_c_stops_at_once(listening, monkeypatch):
    train, received, _ = listening
    train(lambda: send(signal.SIGINT))
    monkeypatch.setattr(signals, 'INSIST', 0)
    with pytest.raises(KeyboardInterrupt):
        train(lambda: send(signal.SIGINT))
    assert received == [signal.SIGINT]


def test_a_run_that_failed_listens_no_more(listening):
    _, received, _ = listening
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
    assert not received


def begin_worker(number, sender):
    """A worker that gets a signal from itself or the main process; returns its exit status."""
    begun, end = os.pipe()
    if (child := os.fork()) == 0:
        signals.leave_signals(None, 0)
        os.write(end, b'.')
        if sender == 'other':
            send(number)
        time.sleep(0.3 if sender == 'other' else 60)
        os._exit(3)
    os.read(begun, 1)
    if sender == 'main process':
        os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_workers_leave_it_to_the_main_process(listening):
    _, received, _ = listening
    assert [begin_worker(number, 'other') for number in signals.SIGNALS] == [3, 3]
    assert begin_worker(signal.SIGTERM, 'main process') == 0
    assert not received
