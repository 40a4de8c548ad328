"""Our sshd, with the real OpenSSH at both ends: who gets in, and what a login finds."""

import base64
import contextlib
import hashlib
import os
import pwd
import re
import shlex
import signal
import socket
import subprocess
import threading
import time

import pytest

from agent.ssh_node import TIMEOUT, SshNode, users
from sagemaker_ssh_helper.agent import login, sshd
from sagemaker_ssh_helper.agent.sshd import Account, SshServer, authorize, choose_port, read_authorized
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.errors import LocalSetup
from sagemaker_ssh_helper.public_keys import PublicKey

pytestmark = pytest.mark.container

NASTY = {
    b"QUOTES": b"""it's "quoted" `id` $HOME $(id) \\ end""",
    b"LINES": b"first\nsecond\r\n\n",
    b"UNICODE": "Grüße, 世界 🐍".encode(),
    b"NOT_UTF8": b"\xff\xfe\x80",
    b"LONG": b"x" * 100_000,
    b"EMPTY": b"",
    b"with.dot": b"a name no shell can set",
    b"BASH_FUNC_f%%": b"() {  echo function\n}",
    b"AWS_CONTAINER_AUTHORIZATION_TOKEN": b"the job's own token",
    b"LD_LIBRARY_PATH": b"/opt/job's lib",
}
DROPPED = {b"SHLVL": b"7", b"OLDPWD": b"/old", b"SSH_CLIENT": b"1.2.3.4 5 6", b"SSH_AUTH_SOCK": b"/none"}


@pytest.fixture(
    scope="module",
    params=[*((user, "openssh") for user in users()), (users()[0], "asyncssh")],
    ids=lambda param: f"{'root' if param[0].uid == 0 else 'ordinary'} {param[1]}",
)
def node(request):
    """A node as root and as an ordinary user, where the tests run as root; by both servers."""
    made = SshNode(request.param[0], {**NASTY, **DROPPED}, request.param[1])
    yield made
    made.close()


@pytest.fixture
def state(tmp_path):
    return StateDir.open(str(tmp_path / "node"), create=True)


@contextlib.contextmanager
def running(server):
    """The server, started; its listening process is killed at the end."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


def digest(data):
    return hashlib.sha256(data).hexdigest()


# --- what a login finds ---


def test_a_command_has_the_jobs_environment_and_nothing_is_printed(node):
    done = node.ssh("exec env -0")

    found = dict(entry.split(b"=", 1) for entry in done.stdout.split(b"\0") if entry)
    ours = {b"PATH", b"PWD", b"SHLVL", b"_"}
    of_sshd = {b"LANG", b"SSH_CLIENT", b"SSH_CONNECTION", b"USER", b"LOGNAME", b"SHELL"}
    job = {name: value for name, value in node.environment.items() if name not in {*ours, *of_sshd, *DROPPED}}
    assert done.stderr == b""
    assert {name: value for name, value in found.items() if name not in {*ours, *of_sshd}} == job
    assert found[b"PATH"] == bytes(node.state / "bin") + b":" + node.environment[b"PATH"]
    assert found[b"SSH_CLIENT"].startswith(b"127.0.0.1 ")
    assert found[b"USER"] == found[b"LOGNAME"] == node.user.name.encode()


def test_a_command_runs_in_the_jobs_folder(node):
    assert node.ssh("pwd").stdout == bytes(node.job) + b"\n"


@pytest.mark.parametrize("status", [0, 1, 37, 254])
def test_the_exit_status_comes_back(node, status):
    assert node.ssh(f"exit {status}").returncode == status


def test_standard_input_and_output_are_the_bytes_they_are(node):
    data = os.urandom(300_000)

    done = node.ssh("cat; printf problem >&2", stdin=data)

    assert (digest(done.stdout), done.stderr) == (digest(data), b"problem")


def test_much_data_is_whole_when_the_reader_is_slow(node):
    done = node.ssh("head -c 20000000 /dev/zero | tee /dev/stderr", options=["-o", "Compression=no"])

    assert (len(done.stdout), len(done.stderr)) == (20_000_000, 20_000_000)


def test_words_with_quotes_and_newlines_reach_the_program(node):
    words = ["a b", "it's", '"', "line\nline", "$HOME", "*", "é"]

    done = node.ssh("printf '%s\\0' " + " ".join(shlex.quote(word) for word in words))

    assert done.stdout.decode().split("\0") == [*words, ""]


def test_a_pipe_that_ends_early_is_quiet(node):
    # Were SIGPIPE still ignored, as in Python, `yes` would complain.
    done = node.ssh("yes | head -n 1")

    assert (done.stdout, done.stderr) == (b"y\n", b"")


def test_the_commands_of_the_node_are_on_the_path(node):
    done = node.ssh("sm-setup-ssh status; command -v sm-wait")

    assert b"state:     not set up" in done.stdout
    assert done.stdout.endswith(bytes(node.state / "bin" / "sm-wait") + b"\n")


def test_a_login_has_a_terminal_and_is_no_login_shell(node):
    script = b'echo "$QUOTES|$TERM|$0|$PWD|$(tty)"; exit 9\n'

    done = node.ssh(options=["-tt"], stdin=script)

    quotes = NASTY[b"QUOTES"].decode()
    shell = os.path.basename(pwd.getpwuid(node.user.uid).pw_shell)
    assert f"{quotes}|vt100|{shell}|{node.job}|/dev/pts/" in done.stdout.decode()
    assert done.returncode == 9


def test_a_shell_without_a_terminal_reads_its_commands(node):
    done = node.ssh(stdin=b'echo "here: $PWD"\n')

    assert (done.stdout, done.stderr) == (f"here: {node.job}\n".encode(), b"")


def lives(pid):
    return os.path.exists(f"/proc/{pid}/stat") and login._began(pid) != b""


def wait_gone(pid):
    deadline = time.monotonic() + 10
    while lives(pid):
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.02)


def wait_is_program(pid, words):
    deadline = time.monotonic() + TIMEOUT
    while True:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if file.read().startswith(words):
                return
        assert time.monotonic() < deadline, f"process {pid} is not {words}"
        time.sleep(0.02)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_ends_with_its_client_but_for_what_is_to_stay(node, ending):
    """Nothing writes to the client here, so nobody would notice by a broken pipe."""
    stays = "sleep 61 >/dev/null & echo $!; nohup sleep 62 </dev/null >/dev/null 2>&1 & echo $!"
    command = f"{stays}; echo $$; sleep 63; :"
    words = ["ssh", "-F", str(node.config), "job", command]
    client = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    background, persistent, shell = (int(client.stdout.readline()) for _ in range(3))
    try:
        # Its number is told before nohup has made it one that stays.
        wait_is_program(persistent, b"sleep\x0062")
        client.send_signal(ending)
        client.wait(TIMEOUT)
        wait_gone(shell)
        assert lives(background)
        assert lives(persistent)
    finally:
        for pid in (background, persistent):
            os.kill(pid, signal.SIGKILL)
        client.stdin.close()
        client.stdout.close()


def test_what_a_command_leaves_behind_stays_when_its_client_is_done(node):
    done = node.ssh("sleep 61 >/dev/null 2>&1 & echo $!")
    pid = int(done.stdout)
    time.sleep(0.3)

    assert lives(pid)
    os.kill(pid, signal.SIGKILL)


def test_the_end_of_a_process_is_seen_without_the_kernels_help(monkeypatch):
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.setattr(login, "WATCH_INTERVAL", 0.01)
    with subprocess.Popen(["sleep", "60"]) as ours:
        threading.Timer(0.1, ours.kill).start()
        assert login._first_to_end(os.getpid(), ours.pid) == ours.pid
        assert login._first_to_end(ours.pid, os.getpid()) == ours.pid


def test_a_login_without_the_saved_environment_still_works(node):
    saved = node.state / "environment"
    saved.rename(node.state / "environment.away")
    try:
        done = node.ssh("echo $SHELL")
    finally:
        (node.state / "environment.away").rename(saved)

    assert (done.stdout.decode().strip(), done.stderr) == (pwd.getpwuid(node.user.uid).pw_shell, b"")


# --- files, ports, agents ---


def copies(node):
    config = ["-F", str(node.config)]
    return {
        "sftp": lambda source, target: ["sftp", *config, "-q", "-b", "-", "job"],
        "scp": lambda source, target: ["scp", *config, "-q", source, target],
        "scp -O": lambda source, target: ["scp", *config, "-q", "-O", source, target],
        "rsync": lambda source, target: ["rsync", "-e", shlex.join(["ssh", *config]), source, target],
    }


@pytest.mark.parametrize("program", ["sftp", "scp", "scp -O", "rsync"])
@pytest.mark.parametrize("size", [0, 300_001])
def test_files_are_copied_both_ways(node, program, size):
    data = os.urandom(size)
    # A new name each time: rsync passes over a file of the same size and second.
    name = digest(data + program.encode())[:8]
    local, back = node.client / name, node.client / f"{name}-back"
    local.write_bytes(data)
    command = copies(node)[program]

    up = node.run(command(str(local), f"job:{name}"), f"put {local} {name}\n".encode())
    down = node.run(command(f"job:{name}", str(back)), f"get {name} {back}\n".encode())

    assert (up.returncode, up.stderr, down.returncode, down.stderr) == (0, b"", 0, b"")
    # A relative name is in the job's folder.
    assert digest((node.job / name).read_bytes()) == digest(data)
    assert digest(back.read_bytes()) == digest(data)


def test_a_port_is_forwarded(node):
    with socket.create_server(("127.0.0.1", 0)) as far, socket.create_server(("127.0.0.1", 0)) as free:
        local_port = free.getsockname()[1]
        free.close()

        def serve():
            with far.accept()[0] as connection:
                connection.sendall(b"from the job's server")

        threading.Thread(target=serve).start()
        words = ["-o", "ExitOnForwardFailure=yes", "-L", f"{local_port}:127.0.0.1:{far.getsockname()[1]}"]
        command = ["ssh", "-F", str(node.config), *words, "job", "echo ready; cat"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ssh:
            assert ssh.stdout.readline() == b"ready\n"
            with socket.create_connection(("127.0.0.1", local_port), timeout=TIMEOUT) as client:
                answer = client.recv(100)
            ssh.stdin.close()

    assert answer == b"from the job's server"


def test_the_users_agent_is_forwarded(node):
    path = str(node.client / "agent.sock")
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE) as agent:
        agent.stdout.readline()
        node.run(["env", f"SSH_AUTH_SOCK={path}", "ssh-add", "-q", str(node.key)])

        done = node.run(
            ["env", f"SSH_AUTH_SOCK={path}", "ssh", "-A", "-F", str(node.config), "job", "ssh-add -l"]
        )
        agent.terminate()

    assert PublicKey.parse(node.key.with_suffix(".pub").read_text()).sha256 in done.stdout.decode()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("has_account", [True, False])
def test_roots_forwarded_agent_is_reached_by_the_ordinary_user_alone(tmp_path, monkeypatch, has_account):
    folder = tmp_path / "ssh-x"
    folder.mkdir(mode=0o700)
    path = folder / "agent.1"

    def account(*_):
        if not has_account:
            raise KeyError
        return pwd.struct_passwd(("sagemaker-user", "x", 4321, 4322, "", "/", "/bin/sh"))

    monkeypatch.setattr(pwd, "getpwnam", account)
    monkeypatch.setattr(pwd, "getpwuid", account)
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(folder)
        listening.bind("agent.1")
        path.chmod(0o600)
        login.share_agent(os.fsencode(path))

        modes = [(os.stat(name).st_mode & 0o777, os.stat(name).st_gid) for name in (folder, path)]
    assert modes == ([(0o710, 4322), (0o660, 4322)] if has_account else [(0o700, 0), (0o600, 0)])


# --- who gets in ---


def test_only_public_keys_are_offered(node):
    methods = ["-o", "PreferredAuthentications=password,keyboard-interactive", "-o", "BatchMode=yes"]

    done = node.ssh("true", options=methods)

    assert done.returncode == 255
    assert b"Permission denied (publickey)" in done.stderr


def test_another_key_is_refused(node):
    other = node.client / "other"
    node.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)])
    config = node.client / "other-config"
    config.write_text(node.config.read_text().replace(str(node.key), str(other)))
    done = node.run(["ssh", "-F", str(config), "-o", "BatchMode=yes", "job", "true"])

    assert done.returncode == 255
    assert b"Permission denied (publickey)" in done.stderr


def test_another_user_is_refused_with_the_right_key(node):
    other = next(entry.pw_name for entry in pwd.getpwall() if entry.pw_uid != node.user.uid)

    done = node.ssh("true", options=["-l", other])

    assert done.returncode == 255
    assert b"Permission denied" in done.stderr


def test_it_listens_on_loopback_only(node):
    config = (node.state / "sshd_config").read_text()

    assert re.findall(r"^ListenAddress (.*)$", config, re.MULTILINE) == ["127.0.0.1"]
    assert (node.state / "sshd.log").read_text().count("Server listening on") == 1


# --- the server's life ---


def test_a_server_that_died_is_started_again_on_its_port_with_its_key(state):
    with running(SshServer.prepare(state)) as server:
        port, key = server.port, server.host_public_key
        agent = SshServer.attach(state)
        assert (agent.alive(), agent.keep_alive(0.0)) == (True, None)

        os.kill(server.pid, signal.SIGKILL)
        wait_until_dead(agent)

        assert agent.keep_alive(1.0) == f"sshd died, and was started again on port {port}"
        assert (agent.alive(), agent.port, agent.host_public_key) == (True, port, key)
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as client:
            assert client.recv(8) == b"SSH-2.0-"


def test_a_server_that_keeps_dying_is_started_ever_less_often(state):
    with running(SshServer.prepare(state)) as server:
        restarts = []
        for now in range(20):
            os.kill(server.pid, signal.SIGKILL) if server.alive() else None
            wait_until_dead(server)
            if server.keep_alive(float(now)):
                restarts.append(now)

        # Pauses of 1, 2, 4, 8 seconds; a minute of life begins anew.
        assert restarts == [0, 1, 3, 7, 15]
        assert server.keep_alive(500.0) is not None
        wait_until_dead(server, kill=True)
        assert server.keep_alive(501.0) is not None


def test_a_restart_that_fails_is_told_and_tried_again_later(state):
    with running(SshServer.prepare(state)) as server:
        wait_until_dead(server, kill=True)
        with socket.create_server(("127.0.0.1", server.port)):
            line = server.keep_alive(0.0)

        assert line.startswith("sshd died, and did not start again: sshd does not start")
        assert server.keep_alive(0.5) is None
        assert server.keep_alive(2.0) == f"sshd died, and was started again on port {server.port}"


def test_starting_twice_leaves_one_server(state):
    with running(SshServer.prepare(state)) as server:
        first = server.pid
        server.start()

        assert server.alive()
        assert server.pid != first
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)


def test_a_process_that_only_has_the_number_is_not_taken_for_the_server(state):
    server = SshServer.prepare(state)
    state.write(state.sshd_pid, str(os.getpid()).encode())

    assert not server.alive()


def test_the_host_key_is_kept(state):
    first = SshServer.prepare(state).host_public_key

    assert SshServer.prepare(state).host_public_key == first
    assert os.stat(state.host_key).st_mode & 0o077 == 0


def wait_until_dead(server, kill=False):
    if kill:
        os.kill(server.pid, signal.SIGKILL)
    deadline = time.monotonic() + TIMEOUT
    while server.alive():
        assert time.monotonic() < deadline, "the killed server is still there"


# --- ports ---


def test_port_22_is_taken_when_it_is_free(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setattr(sshd, "SSH_PORT", port)

    assert choose_port() == port


def test_another_port_is_taken_when_port_22_is_not_free(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setattr(sshd, "SSH_PORT", other.getsockname()[1])

        assert choose_port() not in (0, other.getsockname()[1])


def test_port_22_is_left_to_a_job_that_will_want_it(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setattr(sshd, "SSH_PORT", port)

    assert choose_port(leaves_ssh_port=True) not in (0, port)


def test_a_lost_race_for_a_port_is_run_again(state, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = iter([other.getsockname()[1], choose_port()])
        monkeypatch.setattr(sshd, "choose_port", lambda **_: next(ports))

        with running(SshServer.prepare(state)) as server:
            assert server.alive()
            assert server.port != other.getsockname()[1]


# --- images ---


def test_options_that_a_version_does_not_know_are_left_out(state, monkeypatch):
    known = SshServer._optional_lines
    monkeypatch.setattr(
        SshServer,
        "_optional_lines",
        lambda self: ["FrobnicateLevel 9", *known(self), "PrintMotd perhaps"],
    )

    with running(SshServer.prepare(state)) as server:
        config = state.read(state.sshd_config).decode()

        assert server.alive()
    assert "FrobnicateLevel" not in config
    assert "PrintMotd perhaps" not in config
    assert "PrintMotd no" in config


def test_a_server_that_does_not_start_is_told_with_its_own_words(state, monkeypatch):
    server = SshServer.prepare(state)
    os.unlink(state.host_key)

    with pytest.raises(LocalSetup, match="no hostkeys available") as caught:
        server.start()

    assert state.sshd_log in str(caught.value)


def test_an_image_without_openssh_is_told_what_to_install(state, monkeypatch):
    monkeypatch.setattr(sshd, "find_program", lambda name: None)

    with pytest.raises(LocalSetup, match="no OpenSSH server") as caught:
        SshServer.prepare(state)

    assert "sm-setup-ssh configure" in str(caught.value)


def test_an_image_without_ssh_keygen_is_told_what_to_install(state, monkeypatch):
    monkeypatch.setattr(sshd, "find_program", lambda name: None if name == "ssh-keygen" else "/usr/sbin/sshd")

    with pytest.raises(LocalSetup, match="no ssh-keygen"):
        SshServer.prepare(state)


def test_a_uid_without_an_account_is_told_how_to_get_one(monkeypatch):
    unknown = next(uid for uid in range(54321, 60000) if uid not in {e.pw_uid for e in pwd.getpwall()})
    monkeypatch.setattr(os, "geteuid", lambda: unknown)

    with pytest.raises(LocalSetup, match=f"uid {unknown} has no entry in /etc/passwd") as caught:
        Account.own()

    assert f"sagemaker:x:{unknown}:" in str(caught.value)


@pytest.mark.parametrize("shell", ["/usr/sbin/nologin", "/bin/false", "/no/such/shell"])
def test_an_account_without_a_shell_is_told_how_to_get_one(monkeypatch, shell):
    entry = pwd.struct_passwd(("service", "x", 999, 999, "", "/", shell))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: entry)

    with pytest.raises(LocalSetup, match="has no shell") as caught:
        Account.own()

    assert "usermod -s /bin/sh service" in str(caught.value)


def test_a_missing_folder_of_sshd_is_made(state, monkeypatch, tmp_path):
    folder = tmp_path / "run" / "sshd"
    complaints = iter([f"Missing privilege separation directory: {folder}", ""])
    monkeypatch.setattr(SshServer, "_try_start", lambda self: next(complaints))

    SshServer.prepare(state).start()

    assert folder.is_dir()


def test_a_folder_of_sshd_that_cannot_be_made_is_told(state, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "sshd"
    fake = tmp_path / "sshd"
    fake.write_text(f"#!/bin/sh\necho 'Missing privilege separation directory: {folder}' >&2; exit 255\n")
    fake.chmod(0o700)
    server = SshServer.prepare(state)
    server._program = str(fake)

    with pytest.raises(LocalSetup, match=f"cannot be made here .*RUN mkdir -p {folder}"):
        server.start()


def test_a_missing_user_of_sshd_is_told(state, monkeypatch):
    monkeypatch.setattr(SshServer, "_try_start", lambda self: "Privilege separation user sshd does not exist")

    with pytest.raises(LocalSetup, match="sshd needs a user 'sshd'"):
        SshServer.prepare(state).start()


def test_sshd_is_not_given_the_jobs_libraries(monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/conda/lib")
    monkeypatch.setenv("LD_PRELOAD", "/libchangehostname.so")
    monkeypatch.setenv("SECRET", "x")

    assert set(sshd.clean_environment()) <= {"PATH", "LANG", "TZ", "TMPDIR"}


@pytest.mark.parametrize("path", ['a"b', "a\\b", "a\nb"])
def test_a_folder_that_sshd_cannot_name_is_refused(tmp_path, path):
    with pytest.raises(LocalSetup, match="cannot name files"):
        SshServer.prepare(StateDir.open(str(tmp_path / path), create=True))


def test_a_folder_with_spaces_and_quotes_works(tmp_path):
    state = StateDir.open(str(tmp_path / "it's a 100% odd folder"), create=True)

    with running(SshServer.prepare(state)) as server:
        assert server.alive()


# --- authorized keys ---


def key_number(number):
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes([number]) * 32
    return PublicKey.parse(f"ssh-ed25519 {base64.b64encode(blob).decode()}")


def test_a_key_is_added_once_to_a_file_for_us_alone(state):
    assert authorize(state, key_number(1))
    assert authorize(state, key_number(2))
    assert not authorize(state, key_number(1))

    assert read_authorized(state) == [key_number(1), key_number(2)]
    assert os.stat(state.authorized_keys).st_mode & 0o077 == 0


def test_lines_that_are_no_keys_stay_and_are_not_counted(state):
    state.write(state.authorized_keys, b"# a comment\n\nrubbish\n" + key_number(1).line.encode())

    authorize(state, key_number(2))

    assert read_authorized(state) == [key_number(1), key_number(2)]
    assert state.read(state.authorized_keys).startswith(b"# a comment\n\nrubbish\n")


def test_keys_added_at_the_same_time_are_all_kept(state):
    threads = [threading.Thread(target=authorize, args=(state, key_number(n))) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {key.line for key in read_authorized(state)} == {key_number(n).line for n in range(16)}


@pytest.mark.parametrize(
    ("refused", "given", "made"),
    [
        ("none", None, "ssh-ed25519"),
        ("ed25519", None, "ecdsa-sha2-nistp256"),
        ("none", "ecdsa-sha2-nistp256 AAAA", "ecdsa-sha2-nistp256"),
        ("none", "ssh-rsa AAAA", "ecdsa-sha2-nistp256"),
        ("ecdsa", "ssh-rsa AAAA", "ssh-ed25519"),
    ],
)
def test_a_policy_that_refuses_ed25519_gets_another_type(
    state, tmp_path, monkeypatch, refused, given, made
):
    real = sshd.find_program
    keygen = tmp_path / "ssh-keygen"
    refuse = f"for word; do case $word in {refused}) echo refused; exit 1;; esac; done"
    keygen.write_text(f'#!/bin/sh\n{refuse}\nexec {real("ssh-keygen")} "$@"\n')
    keygen.chmod(0o755)
    programs = {"ssh-keygen": str(keygen)}
    monkeypatch.setattr(sshd, "find_program", lambda name: programs.get(name) or real(name))
    monkeypatch.delenv("SSH_PUBLIC_KEY", raising=False)
    if given:
        monkeypatch.setenv("SSH_PUBLIC_KEY", given)
    server = SshServer.prepare(state)
    assert server.host_public_key.type == made
    with running(server):
        pass
