"""Our lines in the job's log: written through /proc, without holding the job's pipes."""

import logging
import os
import subprocess
import sys

import pytest

from sagemaker_ssh_helper.agent import job_output
from sagemaker_ssh_helper.agent.job_output import JobLogHandler, JobOutput, say

pytestmark = pytest.mark.container


@pytest.fixture
def job():
    """A process with both its outputs in pipes, which says something when it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", "print('begun', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"begun\n"
    yield process
    process.kill()
    process.communicate()


def test_lines_reach_the_jobs_outputs_and_the_pipes_end_with_the_job(job):
    output = JobOutput(job.pid)

    assert output.say("a line")
    assert output.write(1, "another, with ünïcode")
    out, err = job.communicate(b"\n", timeout=60)

    assert (out.decode(), err) == ("another, with ünïcode\n", b"sagemaker-ssh-helper: a line\n")


def test_nothing_is_written_when_the_job_ended(job):
    output = JobOutput(job.pid)
    job.communicate(b"\n", timeout=60)

    assert not output.say("too late")


def test_nothing_is_written_to_another_process_of_the_same_number(job):
    output = JobOutput(job.pid)
    output._started = b"1"

    assert not output.say("not for you")


def test_a_full_pipe_drops_the_line_instead_of_blocking(job):
    output = JobOutput(job.pid)
    written = 0
    while output.write(2, "x" * 3999):
        written += 1

    assert written > 0
    assert len(job.communicate(b"\n", timeout=60)[1]) == written * 4000


def test_a_very_long_line_is_cut():
    reader, writer = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=writer)
    os.close(writer)
    with process, os.fdopen(reader, "rb") as pipe:
        assert JobOutput(process.pid).write(1, "y" * 10_000)
        process.communicate(b"\n", timeout=60)
        assert pipe.read() == b"y" * 4000 + b"\n"


def test_only_the_line_that_others_search_for_is_told_unless_all_is_asked_for(job):
    output = JobOutput(job.pid)
    line = "Successfully registered the instance with AWS SSM using Managed instance-id: mi-1"
    for everything in (False, True):
        handler = JobLogHandler(output, everything=everything)
        handler.setFormatter(logging.Formatter("LOG %(message)s"))
        for text in (line, "something else"):
            handler.handle(logging.LogRecord("n", logging.INFO, "f", 1, text, None, None))

    out, err = job.communicate(b"\n", timeout=60)

    assert err.decode() == f"sagemaker-ssh-helper: {line}\n"
    assert out.decode() == f"LOG {line}\nLOG something else\n"


def test_a_process_without_standard_error_says_nothing_and_goes_on(monkeypatch, capsys):
    say("heard")
    monkeypatch.setattr(sys, "stderr", None)
    say("unheard")

    assert capsys.readouterr().err == f"{job_output.PREFIX}heard\n"
