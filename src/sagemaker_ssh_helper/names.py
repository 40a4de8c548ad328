"""
Every name that someone else also reads: tags, environment variables, documents, paths, log lines.

One place for each: the agent, the client, the local cloud and the docs test all import from here.
Imports the standard library only; Python 3.8.
"""

import enum
from typing import NewType, Optional

InstanceId = NewType("InstanceId", str)
"""
What Session Manager opens sessions to: a managed instance, ``mi-`` and 17 hexadecimal digits, or a native
target, which is SageMaker's own (``sagemaker-training-job:…``, a space's ARN).
"""

SessionId = NewType("SessionId", str)
"""A Session Manager session, as StartSession returns it."""


class Tag:
    """Tag keys on a managed instance, set when its activation is made."""

    OWNER = "SSHOwner"
    CREATOR = "SSHCreator"
    TIMESTAMP = "SSHTimestamp"
    RESOURCE_NAME = "SSHResourceName"
    RESOURCE_ARN = "SSHResourceArn"
    # From here on: not known to helpers before this one.
    HOST_KEY = "SSHHostKey"
    PORT = "SSHPort"
    USER = "SSHUser"
    NODE = "SSHNode"
    LAUNCH_ID = "SSHLaunchId"
    KEYS = "SSHKeys"
    VERSION = "SSHVersion"


class Env:
    """Environment variables. The first block is given to the job at launch and read in the container."""

    START_SSH = "START_SSH"
    SSM_ROLE = "SSH_SSM_ROLE"
    OWNER_TAG = "SSH_OWNER_TAG"
    WAIT_TIME_SECONDS = "SSH_WAIT_TIME_SECONDS"
    INSTANCE_COUNT = "SSH_INSTANCE_COUNT"
    LOG_TO_STDOUT = "SSH_LOG_TO_STDOUT"
    PUBLIC_KEY = "SSH_PUBLIC_KEY"
    LAUNCH_ID = "SSH_LAUNCH_ID"
    AGENT = "SSH_AGENT"
    SSHD = "SSH_SSHD"
    # A secret of the job's nodes, by which they log in to each other.
    NODE_KEY = "SSH_NODE_KEY"
    # Where the container side keeps its files; chosen by itself when unset.
    STATE_DIR = "SSH_STATE_DIR"
    # Seconds that a client's side of the handshake may take.
    HANDSHAKE_TIMEOUT = "SSH_HANDSHAKE_TIMEOUT"
    # Where in S3 public keys are put and found, at both ends.
    AUTHORIZED_KEYS_PATH = "SSH_AUTHORIZED_KEYS_PATH"
    # Read on the user's machine.
    DEBUG = "SM_SSH_DEBUG"
    MAX_PAYLOAD = "SM_SSH_MAX_PAYLOAD"
    # Read by the local cloud when it starts.
    JOB_STOP_SECONDS = "SM_SSH_JOB_STOP_SECONDS"
    JOB_LOG_BYTES = "SM_SSH_JOB_LOG_BYTES"


class Document:
    """Documents of Systems Manager that we name in calls."""

    START_SSH_SESSION = "AWS-StartSSHSession"
    START_PORT_FORWARDING = "AWS-StartPortForwardingSession"
    RUN_SHELL_SCRIPT = "AWS-RunShellScript"


DEFAULT_INSTANCE_COUNT = 2
"""How many nodes of a resource get an agent when ``SSH_INSTANCE_COUNT`` does not say: as documented."""


class Line:
    """Log lines that other programs search for."""

    REGISTERED = "Successfully registered the instance with AWS SSM using Managed instance-id: {instance_id}"
    # Before each line that the helper in a container writes to the job's log.
    OF_HELPER = "sagemaker-ssh-helper: "
    # Before the reason, in the job's log.
    NO_SSH = "no ssh in this container: "


class Command:
    """Commands the client runs in the container by Run Command; fixed texts with one validated token."""

    # The token is the standard base64 of one authorized_keys line.
    AUTHORIZE_KEY = "sm-setup-ssh authorize {token}"
    # The token is that of s3://BUCKET/KEY.
    AUTHORIZE_KEY_FROM = "sm-setup-ssh authorize-from {token}"


PRODUCT = "sagemaker-ssh-helper"
"""What the User-Agent of our agent and our client begins with, before a slash and the version."""

AGENT_NAME = "amazon-ssm-agent"
"""What every agent calls itself in UpdateInstanceInformation; the service may look at it."""

AGENT_VERSION = "3.3.4515.0"
"""What our agent announces. Peers gate features on it: it must have four numbers and exceed 3.1.1511.0."""

CLIENT_VERSION = "1.2.4515.0"
"""What our client announces in the handshake; must exceed 1.2.331.0 so that agents drop smux keepalives."""

AGENT_LOG_PATH = "/var/log/amazon/ssm/amazon-ssm-agent.log"
"""The agent's log when that folder is writable, else ``amazon-ssm-agent.log`` in the state folder."""

DOMAIN = "sagemaker"


class ResourceKind(enum.Enum):
    """
    The kinds of SageMaker resources whose containers can be reached. A new kind is one new row.

    Each has: the domain part of its host names (``NAME.<value>.sagemaker``), the resource part of its ARN,
    its CloudWatch log group (None: the resource has none of its own) and a label for people.
    """

    TRAINING = ("training", "training-job", "/aws/sagemaker/TrainingJobs", "training job")
    PROCESSING = ("processing", "processing-job", "/aws/sagemaker/ProcessingJobs", "processing job")
    TRANSFORM = ("transform", "transform-job", "/aws/sagemaker/TransformJobs", "transform job")
    INFERENCE = ("inference", "endpoint", "/aws/sagemaker/Endpoints", "endpoint")
    NOTEBOOK = ("notebook", "notebook-instance", "/aws/sagemaker/NotebookInstances", "notebook instance")
    STUDIO = ("studio", "app", "/aws/sagemaker/studio", "Studio app")

    def __init__(self, domain: str, arn_type: str, log_group: Optional[str], label: str) -> None:
        self.domain = domain
        self.arn_type = arn_type
        self.log_group = log_group
        self.label = label

    @classmethod
    def from_domain(cls, domain: str) -> "ResourceKind":
        """The kind whose domain part this is. Raises KeyError for any other text."""
        for kind in cls:
            if kind.domain == domain:
                return kind
        raise KeyError(domain)


def training_target(job_name: str, node: str) -> str:
    """Session Manager's target for a training job's container where remote debugging is on."""
    return f"sagemaker-training-job:{job_name}_{node}"


def endpoint_target(endpoint_name: str, variant_name: str, host: str) -> str:
    """The same for an instance (``i-…``) of an endpoint whose variant takes sessions."""
    return f"sagemaker-endpoint:{endpoint_name}_{variant_name}_{host}"


def node_name(rank: int) -> str:
    """``algo-N`` for a rank counted from 0."""
    return f"algo-{rank + 1}"


def instance_name(node: str, resource_name: str, kind: ResourceKind) -> str:
    """The activation's DefaultInstanceName: ``algo-N.NAME.TYPE.sagemaker``, at most 256 characters."""
    return f"{node}.{resource_name}.{kind.domain}.{DOMAIN}"[:256]
