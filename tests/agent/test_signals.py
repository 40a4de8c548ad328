"""Signals that come at the worst moment: real ones, to real processes."""

import subprocess
import sys

import pytest

from agent.job_script import SOURCE, TIMEOUT

pytestmark = pytest.mark.container

# Another process sends a signal each time that this one is about to wait, and none after one that is missed.
HAMMER = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[1])
from sagemaker_ssh_helper.agent.signals import Wakeup

times, seconds = int(sys.argv[2]), float(sys.argv[3])
handled = 0

def handle(number, frame):
    global handled
    handled += 1

asked, ask = os.pipe()
waiting = os.getpid()
if os.fork() == 0:
    os.close(ask)
    while os.read(asked, 1):
        for _ in range(random.randrange(60)):
            pass
        os.kill(waiting, signal.SIGTERM)
    os._exit(0)
os.close(asked)

wakeup = Wakeup({signal.SIGTERM: handle})
for wanted in range(1, times + 1):
    os.write(ask, b".")
    while handled < wanted:
        began_at = time.monotonic()
        wakeup.wait(seconds)
        if time.monotonic() - began_at >= seconds:
            sys.exit(f"signal {wanted} was not noticed")
print(handled)
"""

# A child that ends before anybody waits for it, and one that ends later.
CHILDREN = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
from sagemaker_ssh_helper.agent.signals import Wakeup

wakeup = Wakeup({})
for pause in (0, 0.1):
    pid = os.fork()
    if pid == 0:
        time.sleep(pause)
        os._exit(7)
    if not pause:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    ended, status = os.waitpid(pid, os.WNOHANG)
    while not ended:
        wakeup.wait()
        ended, status = os.waitpid(pid, os.WNOHANG)
    print(os.WEXITSTATUS(status))
wakeup.close()
print(signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL)
"""


def run(script: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, str(SOURCE), *words],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    return done.stdout + done.stderr


def test_a_signal_that_comes_just_before_the_waiting_is_not_missed():
    # Where the handler itself wakes the waiting up, one in some 8,000 is.
    assert run(HAMMER, "5000", str(TIMEOUT / 2)) == "5000\n"


def test_the_ends_of_children_are_noticed_whatever_was_done_about_their_signal():
    assert run(CHILDREN) == "7\n7\nTrue\n"
