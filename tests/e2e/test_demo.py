"""The demo shows the product at work, and fails when it does not work."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List, Mapping, Optional

import pytest

from e2e.laptop import until
from hidden_modules import hide
from local_cloud import clean_environment

DEMO = [sys.executable, "-m", "sagemaker_ssh_helper", "demo"]


def run(
    command: List[str], home: Path, env: Optional[Mapping[str, str]] = None, *, typed: str = ""
) -> "subprocess.CompletedProcess[str]":
    home.mkdir(exist_ok=True)
    return subprocess.run(
        command,
        env={**clean_environment(home), **(env or {})},
        input=typed,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_the_demo_shows_every_step_with_evidence(tmp_path: Path) -> None:
    done = run(DEMO, tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "demo: ok"
    name = next(word for word in lines[1].split() if word.startswith("demo-"))
    assert f"TRAINING_JOB_NAME={name}; host key SHA256:" in done.stdout
    assert "here, there, and back again" in done.stdout
    assert "its page holds" in done.stdout
    assert "Completed" in lines[-3]
    assert f"{name}/output/model.tar.gz" in lines[-2]
    # Nothing of the user's is touched.
    assert list((tmp_path / "home").rglob("*")) == []


def test_the_demo_runs_a_user_s_own_script(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "points.csv").write_text("1,2")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "helper.py").write_text("WORD = 'helped'")
    (tmp_path / "code" / "my_train.py").write_text(
        "import os, sys, helper\n"
        "print('told', sys.argv[1:], os.listdir(os.environ['SM_CHANNEL_TRAIN']), helper.WORD)\n"
        "open(os.environ['SM_MODEL_DIR'] + '/model', 'w').write('model')\n"
    )
    script = str(tmp_path / "code" / "my_train.py")
    (tmp_path / "code" / "secret").write_text("not for the job")
    options = ["--input", f"train={tmp_path / 'data'}", "--hyperparameter", "epochs=3"]
    options += ["--source", str(tmp_path / "code" / "helper.py")]
    done = run([*DEMO, script, *options], tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "told ['--epochs', '3'] ['points.csv'] helped" in done.stdout
    assert done.stdout.startswith("the job gets my_train.py, helper.py: 0.2 kB\n")


def test_a_shell_in_the_demo_may_let_the_job_go_on(tmp_path: Path) -> None:
    typed = "echo in $TRAINING_JOB_NAME\nsm-wait stop\nwhile kill -0 $PPID; do sleep 0.1; done\n"
    done = run([*DEMO, "--shell"], tmp_path / "home", typed=typed)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    name = next(word for word in lines[1].split() if word.startswith("demo-"))
    assert f"in {name}" in lines
    assert any("stop the waiting loop" in line and "the job has gone on" in line for line in lines)
    assert lines[-1] == "demo: ok"


def test_the_demo_fails_with_the_job_s_own_reason(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "my_train.py").write_text("raise ValueError('no such data')")
    done = run([*DEMO, str(tmp_path / "code" / "my_train.py")], tmp_path / "home")
    assert done.returncode == 1
    assert "demo: FAILED at step 'wait for the job to complete'" in done.stdout
    assert "no such data" in done.stdout
    assert "demo: ok" not in done.stdout


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["nowhere.py"], "no training script"),
        ([__file__, "--source", "/nowhere"], "there is no source '/nowhere'"),
        (["--source", "/tmp"], "goes with a script"),
        ([__file__, "--source", "LARGE"], "MB, and 100 MB are the most"),
        (["--input", "train"], "not of the form"),
        (["--input", "train=/nowhere"], "no folder"),
        (["--hyperparameter", "=3"], "not of the form"),
    ],
)
def test_what_the_demo_cannot_run_is_told_before_anything_starts(
    tmp_path: Path, words: List[str], why: str
) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(100_000_001)
    words = [str(tmp_path / "large") if word == "LARGE" else word for word in words]
    done = run([*DEMO, *words], tmp_path / "home")
    assert done.returncode == 2
    assert done.stderr.startswith("sm-ssh: error[usage]: ")
    assert why in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("host_key", "Host key verification failed"),
        ("gateway", "error[endpoint-unreachable]"),
    ],
)
def test_the_demo_fails_when_its_ground_is_broken(tmp_path: Path, what: str, why: str) -> None:
    done = run([sys.executable, str(Path(__file__).with_name("sabotaged_demo.py")), what], tmp_path / "home")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "demo: FAILED at step 'ssh " in done.stdout
    assert why in done.stdout
    assert "demo: ok" not in done.stdout


def test_the_demo_fails_without_an_ssh_server(tmp_path: Path) -> None:
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    assert sshd is not None
    # Hidden from this one process tree only.
    hide = ["unshare", *([] if os.getuid() == 0 else ["-r"]), "-m", "sh", "-c"]
    done = run([*hide, f'mount --bind /dev/null {sshd} && exec "$@"', "sh", *DEMO], tmp_path / "home")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "demo: FAILED at step 'wait for its agent'" in done.stdout
    assert "no OpenSSH server in this image" in done.stdout


def test_the_demo_names_the_missing_extra(tmp_path: Path) -> None:
    done = run(DEMO, tmp_path / "home", hide(tmp_path / "hidden", "moto", "h11"))
    assert done.returncode == 1
    assert "pip install '.[emulator]'" in done.stdout + done.stderr


def test_the_demo_runs_as_an_ordinary_user(tmp_path: Path) -> None:
    # A user namespace where we are number 1000, without any rights, and an account of that number.
    home = tmp_path / "home"
    accounts = tmp_path / "passwd"
    accounts.write_text(
        f"root:x:0:0:root:/root:/bin/sh\nsshd:x:101:65534::/run/sshd:/bin/false\nplain:x:1000:1000::{home}:/bin/sh\n"
    )
    outer = ["unshare", *([] if os.getuid() == 0 else ["-r"]), "-m", "sh", "-c"]
    inner = ["unshare", "-U", "--map-user=1000", "--map-group=1000", "--", *DEMO]
    done = run([*outer, f'mount --bind {accounts} /etc/passwd && exec "$@"', "sh", *inner], home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "demo: ok"


def test_a_killed_demo_leaves_nothing_running(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    # Everything that it starts has this folder somewhere in its environment, the job's processes too.
    marked = {**clean_environment(home), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(DEMO, env=marked, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        # The job's processes are up as soon as it has a name.
        started = process.stdout.readline(), process.stdout.readline()
        assert "launch a training job" in started[1]
        until(lambda: len(_processes_with(tmp_path)) > 3, "processes of the job")
        process.kill()
        process.wait()
    until(lambda: not _processes_with(tmp_path), "everything that the demo started to end", 20)


def _processes_with(folder: Path) -> List[int]:
    """The processes that have this folder in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        if bytes(folder) in environment:
            found.append(int(process.name))
    return found
