import contextlib
import os
import signal

import pytest

from utils import interrupts

pytestmark = pytest.mark.usefixtures("interruptible")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_first_signal_interrupts_and_further_ctrl_c_does_not_disturb_the_closing(number):
    interrupts.check()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_waits_where_work_is_held_together(number, capfd):
    done = False
    with interrupts.held():
        assert not interrupts.requested()
        os.kill(os.getpid(), number)
        assert interrupts.requested()
        done = True
    assert "Ctrl-C again to end at once" in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        interrupts.check()
    assert done
    os.kill(os.getpid(), signal.SIGINT)  # the closing is not disturbed


def test_a_second_ctrl_c_does_not_wait():
    with interrupts.held():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_sigterm_waits_too(first):
    with interrupts.held():
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        interrupts.check()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # should the closing hang


def test_a_terminal_that_closes_is_no_matter_under_nohup():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupts.install()
    os.kill(os.getpid(), signal.SIGHUP)
    assert not interrupts.requested()


def test_a_signal_after_the_work_does_not_wait():
    with interrupts.held():
        pass
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_swallowed_interrupt_comes_back():
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupts.check()
