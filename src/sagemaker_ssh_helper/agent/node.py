"""
The agent process: from a started process to a node that is online.

The caller (``bootstrap``) starts it in a session of its own, below a ``keeper``. It makes the host key,
starts sshd, gets an activation, and then becomes the agent. When that fails, one line in the job's log and
the node's state say so. When it is started again it finds what was made, and becomes the agent at once.

Standard library only; Python 3.8.
"""

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from typing import Callable, Generic, Mapping, Optional, Sequence, TypeVar

from sagemaker_ssh_helper.agent import environment, keeper, peers, resource, ssh_servers, sshd
from sagemaker_ssh_helper.agent.job_output import JobLogHandler, JobOutput
from sagemaker_ssh_helper.agent.state import AgentConfig, AgentKind, State, StateDir, explained_os_error
from sagemaker_ssh_helper.errors import (
    AccessDenied,
    EndpointUnreachable,
    LocalSetup,
    ServiceError,
    SSHHelperError,
    Throttled,
    UsageError,
    reason_of,
    trace_of,
)
from sagemaker_ssh_helper.names import Env, Line, instance_name
from sagemaker_ssh_helper.plain_logs import PlainFormatter
from sagemaker_ssh_helper.public_keys import PublicKey

_T = TypeVar("_T")

_RSA = "sagemaker_ssh_helper.agent.rsa"

# Without its role the activation cannot be made; without its user id one tag is missing.
_ROLE_TIMEOUT = 5.0
_USER_ID_TIMEOUT = 0.5

# Which gives them back to the programs that it starts.
_IGNORED_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}

_logger = logging.getLogger(__name__)


class _Died(Exception):
    """The agent failed in a way that nobody foresaw, and told it."""


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """
    The agent process: ``STATE_FOLDER LOG JOB_PID LOCK_DESCRIPTOR tell-job|quiet``. Returns its exit status.

    With ``tell-job`` a failure is told in the job's log; else the caller waits, and tells it.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if len(words) != 5:
        raise UsageError("the agent process is started by setup_and_start_ssh() only")
    # The job ignores some, and a shell others for what is in its background; the logins of our sshd must not.
    for number in signal.valid_signals() - _IGNORED_BY_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    state, log_path, job = StateDir.open(words[0]), words[1], JobOutput(int(words[2]))
    lock = _inherited_lock(state, int(words[3]))
    if lock is None:
        return 0
    tell_job = words[4] == "tell-job"
    try:
        # The agent ends by it in good order, once it runs; until then so does the set-up.
        signal.signal(signal.SIGTERM, _end)
        state.write(state.agent_pid, b"%d" % os.getpid())
        why = _become_agent(state, job, log_path)
    except _Died:
        return keeper.EXIT_DIED
    except Exception as error:
        why = reason_of(error)
        if isinstance(error, OSError) and not isinstance(error, SSHHelperError):
            why = str(explained_os_error(error, state.path))
        if isinstance(error, (SSHHelperError, OSError)):
            _logger.error("the set-up failed: %s", why)
        else:
            _logger.error("the set-up failed:\n%s", trace_of(error))
        try:
            state.update_status(State.FAILED, why=why, log=log_path)
        except OSError as problem:
            _logger.error("the state cannot be written: %s", problem)
            tell_job = True
    if why and tell_job:
        job.say(f"{Line.NO_SSH}{why}. Log: {log_path}")
    return 1 if why else 0


def _end(number: int, frame: object) -> None:
    # Once is enough; the next would disturb the clearing up.
    signal.signal(number, signal.SIG_IGN)
    raise LocalSetup("the set-up was told to end")


def _inherited_lock(state: StateDir, descriptor: int) -> Optional[object]:
    """The node's lock: the caller's descriptor, else taken anew; None when another process has it."""
    try:
        os.fstat(descriptor)
    except OSError:
        # Some shells close what they do not know.
        return state.try_agent_lock()
    os.set_inheritable(descriptor, False)
    return descriptor


def _become_agent(state: StateDir, job: JobOutput, log_path: str) -> str:
    """
    Everything up to the activation, then the agent until it ends; returns why, empty when it was told to.

    Raises SSHHelperError or OSError when it does not get as far as the agent.
    """
    log_to_stdout = os.environ.get(Env.LOG_TO_STDOUT, "").strip().lower() == "true"
    _start_logging(log_path, JobLogHandler(job, everything=log_to_stdout))
    state.update_status(log=log_path)

    with contextlib.ExitStack() as leftovers:
        if state.read_config() is None:
            # The slowest step on a bare image, so it is begun first, beside everything else.
            key_maker = subprocess.Popen(
                environment.python_command(state, _RSA, [state.agent_key]), stdin=subprocess.DEVNULL
            )
            # It is waited for as soon as it ends: the agent lives for days.
            leftovers.callback(_Beside(key_maker.wait).result)
            leftovers.callback(key_maker.kill)
            server = _Beside(lambda: _start_sshd(state))
        else:
            server = _Beside(lambda: ssh_servers.attach(state))
        # When the agent ends nobody can reach it any more.
        leftovers.callback(_stop_servers, state, server)
        if state.read_config() is None:
            state.write_config(_activate(state, server, log_path, log_to_stdout))
            state.update_status(why="registering")

        from sagemaker_ssh_helper.agent import daemon

        ended = daemon.main(["--state", state.path])
        if ended == daemon.EXIT_OFFICIAL:
            # It has its own way to end by this signal, and took ours away.
            signal.signal(signal.SIGTERM, _end)
            state.write_config(_activate(state, server, log_path, log_to_stdout))
            ended = daemon.main(["--state", state.path])
        if ended == keeper.EXIT_DIED:
            raise _Died
        if ended == 0:
            return ""
    status = state.read_status()
    return status.why if status is not None else "the agent ended"


def _start_logging(path: str, job_handler: logging.Handler) -> None:
    form = PlainFormatter("%(asctime)s %(levelname)s %(message)s")
    file_handler = logging.FileHandler(path)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for handler in (file_handler, job_handler):
        handler.setFormatter(form)
        root.addHandler(handler)


def _start_sshd(state: StateDir) -> sshd.SshServer:
    environment.write_programs(state, sshd.find_sftp_server())
    state.write(state.authorized_keys, b"")
    given = os.environ.get(Env.PUBLIC_KEY, "").strip()
    if given:
        try:
            sshd.authorize(state, PublicKey.parse(given))
        except UsageError as error:
            _logger.warning("! %s is not used: %s", Env.PUBLIC_KEY, error)
    _admit_from_s3(state)
    server = ssh_servers.start(state, os.environ)
    _logger.info("= sshd (%s) listens on port %d and admits %s", server.KIND, server.port, server.user)
    state.update_status(sshd_port=server.port, user=server.user)
    _start_for_peers(state)
    return server


def _start_for_peers(state: StateDir) -> None:
    """The second server, for the other nodes of the job. A node without it is still good for people."""
    try:
        server = peers.start(state, os.environ)
    except (SSHHelperError, OSError) as error:
        _logger.warning("! other nodes cannot log in here: %s", error)
        return
    if server is not None:
        _logger.info("= sshd for other nodes listens on %s port %d", server.address, server.port)


def _stop_servers(state: StateDir, server: "_Beside[sshd.SshServer]") -> None:
    if server.succeeded:
        server.result().stop()
    try:
        other = peers.attach(state)
    except LocalSetup:
        return
    if other is not None:
        other.stop()


def _admit_from_s3(state: StateDir) -> None:
    """Keys that the launch left in S3. A node without them is still good for those that come later."""
    uri = os.environ.get(Env.AUTHORIZED_KEYS_PATH, "").strip()
    if not uri:
        return
    from sagemaker_ssh_helper.agent import s3_keys
    from sagemaker_ssh_helper.agent.credentials import ContainerCredentials

    environ = os.environ
    region = resource.region(environ, resource.identify(environ, resource.base_dir(environ)))
    try:
        credentials = ContainerCredentials(environ).get()
        for key in s3_keys.KeyStore(uri, region, credentials, environ, time.time()).fetch():
            sshd.authorize(state, key)
    except SSHHelperError as error:
        _logger.warning("! %s gave no keys: %s", Env.AUTHORIZED_KEYS_PATH, error)


def _activate(
    state: StateDir, starting: "_Beside[sshd.SshServer]", log_path: str, log_to_stdout: bool
) -> AgentConfig:
    """Get an activation that tells how to reach the sshd that is being started."""
    # Imported here: it takes as long as other processes need for sshd and the keys.
    from sagemaker_ssh_helper.agent import activation
    from sagemaker_ssh_helper.agent.aws_api import AwsApi
    from sagemaker_ssh_helper.agent.credentials import ContainerCredentials
    from sagemaker_ssh_helper.agent.transport import Transport

    environ = os.environ
    here = resource.identify(environ, resource.base_dir(environ))
    region = resource.region(environ, here)
    if not region:
        raise LocalSetup("the AWS region is not known", fix="Set AWS_REGION in the job's environment")
    name = instance_name(here.node, here.name, here.kind)
    _logger.info("= setting up %s in %s", name, region)
    agent = _choose_agent(region, environ)
    transport = Transport(environ)
    credentials = ContainerCredentials(environ, transport)
    api = AwsApi(region, credentials.get, environ=environ, transport=transport)
    asked = _Beside(api.caller_identity)

    # So is this, while STS answers.
    from sagemaker_ssh_helper.agent import daemon  # noqa: F401

    server = starting.result()
    identity = None
    try:
        identity = asked.result(_USER_ID_TIMEOUT if environ.get(Env.SSM_ROLE) else _ROLE_TIMEOUT)
    except (SSHHelperError, TimeoutError) as error:
        _logger.info("! this container's identity is not known: %s", error)
    role = activation.iam_role(environ, identity)
    labels = activation.tags(
        here,
        environ,
        identity=identity,
        host_key=server.host_public_key,
        port=server.port,
        user=server.user,
        keys=sshd.read_authorized(state),
        now=api.now(),
    )
    try:
        made = api.create_activation(
            role, name, labels, lifetime=activation.LIFETIME, retry=activation.retry(here)
        )
    except SSHHelperError as error:
        raise _explained(error, role) from error
    return AgentConfig(
        region=region,
        activation_id=made.activation_id,
        activation_code=made.activation_code,
        instance_name=name,
        sshd_port=server.port,
        log_path=log_path,
        log_to_stdout=log_to_stdout,
        environ_path=state.environment,
        bin_path=state.bin,
        agent=agent.value,
    )


def _choose_agent(region: str, environ: Mapping[str, str]) -> AgentKind:
    """
    Which agent it will be, as ``SSH_AGENT`` wants it; an official one is ready then to register.

    Raises LocalSetup when that is the one that was asked for, and it cannot be had.
    """
    from sagemaker_ssh_helper.agent import official

    wanted = environ.get(Env.AGENT, "").strip().lower() or AgentKind.AUTO.value
    if wanted not in [kind.value for kind in AgentKind]:
        known = ", ".join(kind.value for kind in AgentKind)
        _logger.warning("! %s is %r: not one of %s", Env.AGENT, wanted, known)
        wanted = AgentKind.AUTO.value
    agent = AgentKind(wanted)
    if agent is AgentKind.EMBEDDED:
        return agent
    try:
        version = official.find()
        official.configure(region, environ)
    except LocalSetup as error:
        if agent is AgentKind.OFFICIAL:
            raise
        _logger.info("= our own agent is used: %s", error.what)
        return agent
    _logger.info("= the official agent is used, version %s", version)
    return AgentKind.OFFICIAL


class _Beside(Generic[_T]):
    """A function's result, made in a thread beside us."""

    def __init__(self, function: Callable[[], _T]) -> None:
        self._function = function
        self._result: Optional[_T] = None
        self._error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error

    def result(self, timeout: Optional[float] = None) -> _T:
        """Waits for it. Raises what the function raised, or TimeoutError."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"no answer in {timeout} s")
        if self._error is not None:
            raise self._error
        assert self._result is not None, "the functions here give something"
        return self._result

    @property
    def succeeded(self) -> bool:
        """Waits for it, too."""
        self._thread.join()
        return self._error is None


def _explained(error: SSHHelperError, role: str) -> SSHHelperError:
    """The error of CreateActivation, with what to do about it."""
    if error.fix is None:
        if isinstance(error, AccessDenied):
            calls = "ssm:CreateActivation and ssm:AddTagsToResource, and iam:PassRole"
            denied = re.search(r"to perform: (iam:PassRole|ssm:AddTagsToResource)\b", str(error))
            error.fix = f"Let the job's role call {denied.group(1) if denied else calls} on the role {role}"
        elif isinstance(error, EndpointUnreachable):
            error.fix = (
                "A job with network isolation has no way to Systems Manager; one in a VPC needs a NAT "
                "gateway, or endpoints for ssm and ssmmessages"
            )
        elif isinstance(error, Throttled):
            error.fix = "Too many nodes started at once: start fewer, or lower ssh_instance_count"
        elif isinstance(error, ServiceError) and "role" in str(error.evidence).lower():
            error.fix = f"Let ssm.amazonaws.com assume the role {role}, in its trust policy"
    return error


if __name__ == "__main__":
    sys.exit(main())
