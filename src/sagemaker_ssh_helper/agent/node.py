"""
The agent process: from a started process to a node that is online.

The caller (``bootstrap``) starts it in a session of its own. It makes the host key, starts sshd, gets an
activation, and then becomes the agent. One line in the job's log and the node's state say when that fails.

Standard library only; Python 3.8.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Callable, Mapping, Optional, Sequence

from sagemaker_ssh_helper.agent import activation, environment, resource, sshd
from sagemaker_ssh_helper.agent.aws_api import AwsApi, Retry
from sagemaker_ssh_helper.agent.credentials import ContainerCredentials
from sagemaker_ssh_helper.agent.job_output import JobLogHandler, JobOutput
from sagemaker_ssh_helper.agent.state import AgentConfig, State, StateDir
from sagemaker_ssh_helper.agent.transport import Transport
from sagemaker_ssh_helper.errors import (
    AccessDenied,
    EndpointUnreachable,
    LocalSetup,
    ServiceError,
    SSHHelperError,
    Throttled,
    UsageError,
)
from sagemaker_ssh_helper.names import Env, instance_name
from sagemaker_ssh_helper.public_keys import PublicKey

_RSA = "sagemaker_ssh_helper.agent.rsa"

# Without its role the activation cannot be made; without its user id one tag is missing.
_ROLE_TIMEOUT = 5.0
_USER_ID_TIMEOUT = 0.5
_CREATE_ATTEMPTS = 8

_logger = logging.getLogger(__name__)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """
    The agent process: ``STATE_FOLDER JOB_PID LOCK_DESCRIPTOR tell-job|quiet``. Returns its exit status.

    With ``tell-job`` a failure is told in the job's log; else the caller waits, and tells it.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if len(words) != 4:
        raise UsageError("the agent process is started by setup_and_start_ssh() only")
    # A shell's background process ignores them; the logins of our sshd must not.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    state, job = StateDir.open(words[0]), JobOutput(int(words[1]))
    lock = _inherited_lock(state, int(words[2]))
    if lock is None:
        return 0
    try:
        return _become_agent(state, job)
    except (SSHHelperError, OSError) as error:
        why = str(error)
    except Exception as error:
        _logger.exception("the set-up failed")
        why = f"{type(error).__name__}: {error}"
    _logger.error("the set-up failed: %s", why)
    log = state.agent_log
    try:
        state.update_status(State.FAILED, why=why, log=log)
    except OSError as error:
        _logger.error("the state cannot be written: %s", error)
        words[3] = "tell-job"
    if words[3] == "tell-job":
        job.say(f"no ssh in this container: {why}. Log: {log}")
    return 1


def _inherited_lock(state: StateDir, descriptor: int) -> Optional[object]:
    """The node's lock: the caller's descriptor, else taken anew; None when another process has it."""
    try:
        os.fstat(descriptor)
    except OSError:
        # Some shells close what they do not know.
        return state.try_agent_lock()
    os.set_inheritable(descriptor, False)
    return descriptor


def _become_agent(state: StateDir, job: JobOutput) -> int:
    """Everything up to the activation, then the agent until it ends. Raises SSHHelperError or OSError."""
    environ = os.environ
    log_to_stdout = environ.get(Env.LOG_TO_STDOUT, "").strip().lower() == "true"
    log_path = state.agent_log
    _start_logging(log_path, JobLogHandler(job, everything=log_to_stdout))
    state.update_status(log=log_path)

    # The slowest step on a bare image, so it is begun first, beside everything else.
    key_maker = subprocess.Popen(
        environment.python_command(state, _RSA, [state.agent_key]),
        stdin=subprocess.DEVNULL,
    )
    try:
        config = _prepare(state, environ, log_path, log_to_stdout)
    except BaseException:
        key_maker.kill()
        key_maker.wait()
        raise
    state.write_config(config)
    state.update_status(why="registering")

    from sagemaker_ssh_helper.agent import daemon

    return daemon.main(["--state", state.path])


def _start_logging(path: str, job_handler: logging.Handler) -> None:
    form = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    file_handler = logging.FileHandler(path)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for handler in (file_handler, job_handler):
        handler.setFormatter(form)
        root.addHandler(handler)


def _prepare(state: StateDir, environ: Mapping[str, str], log_path: str, log_to_stdout: bool) -> AgentConfig:
    """A running sshd and an activation."""
    here = resource.identify(environ, resource.base_dir(environ))
    region = resource.region(environ, here)
    if not region:
        raise LocalSetup("the AWS region is not known", fix="Set AWS_REGION in the job's environment")
    _logger.info("= setting up %s in %s", instance_name(here.node, here.name, here.kind), region)

    transport = Transport(environ)
    credentials = ContainerCredentials(environ, transport)
    asked = _Asked(lambda: activation.caller_identity(region, credentials.get(), environ, transport))

    environment.write_programs(state, sshd.find_sftp_server())
    state.write(state.authorized_keys, b"")
    given = environ.get(Env.PUBLIC_KEY, "").strip()
    if given:
        try:
            sshd.authorize(state, PublicKey.parse(given))
        except UsageError as error:
            _logger.warning("! %s is not used: %s", Env.PUBLIC_KEY, error)
    server = sshd.SshServer.prepare(state)
    server.start()
    try:
        _logger.info("= sshd listens on port %d and admits %s", server.port, server.user)
        state.update_status(sshd_port=server.port, user=server.user)

        identity = asked.answer(_USER_ID_TIMEOUT if environ.get(Env.SSM_ROLE) else _ROLE_TIMEOUT)
        role = activation.iam_role(environ, identity)
        name = instance_name(here.node, here.name, here.kind)
        now = time.time()
        labels = activation.tags(
            here,
            environ,
            identity=identity,
            host_key=server.host_public_key,
            port=server.port,
            user=server.user,
            keys=sshd.read_authorized(state),
            now=now,
        )
        try:
            made = AwsApi(region, credentials.get, environ=environ, transport=transport).create_activation(
                role, name, labels, expires_at=now + activation.LIFETIME, retry=Retry(_CREATE_ATTEMPTS)
            )
        except SSHHelperError as error:
            raise _explained(error, role) from error
    except BaseException:
        # Nobody could reach it.
        server.stop()
        raise
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
    )


class _Asked:
    """A question that is asked in a thread, and whose answer may come too late."""

    def __init__(self, question: Callable[[], activation.Identity]) -> None:
        self._answer: Optional[activation.Identity] = None
        self._question = question
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        try:
            self._answer = self._question()
        except SSHHelperError as error:
            _logger.info("! this container's identity is not known: %s", error)

    def answer(self, timeout: float) -> Optional[activation.Identity]:
        self._thread.join(timeout)
        return self._answer


def _explained(error: SSHHelperError, role: str) -> SSHHelperError:
    """The error of CreateActivation, with what to do about it."""
    if error.fix is None:
        if isinstance(error, AccessDenied):
            error.fix = (
                "Let the job's role call ssm:CreateActivation and ssm:AddTagsToResource, and iam:PassRole "
                f"on the role {role}"
            )
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
