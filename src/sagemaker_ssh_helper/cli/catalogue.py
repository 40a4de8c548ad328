"""
What each error id means and what to do about it.

The words are those of ``docs/reference/errors.md``: a test compares them.
"""

CATALOGUE: dict[str, tuple[str, str]] = {
    "usage": (
        "the command line makes no sense; a name holds characters that no SageMaker name has",
        "the line says which word",
    ),
    "region-missing": (
        "no region is set, or it is none",
        "`--region`, `AWS_REGION`, or a region in the profile",
    ),
    "credentials-missing": (
        "no credentials were found, or the profile does not exist",
        "sign in, or name a profile",
    ),
    "credentials-expired": (
        "they have expired",
        "the line names the command for your profile. An open session goes on; when its link is "
        "lost meanwhile, it waits 15 minutes for new ones, unless the keys are in the environment",
    ),
    "credentials-invalid": (
        "AWS does not know the key, or the secret does not fit",
        "check the variables, and the account they are for",
    ),
    "clock-skewed": (
        "a signature was made at a wrong time",
        "set the clock",
    ),
    "access-denied": (
        "AWS refuses an action; the line names it and quotes AWS",
        "ask for that permission",
    ),
    "not-owner": (
        "AWS refuses the session, and the node's `SSHOwner` is not you",
        "launch your own job, or have this one made yours",
    ),
    "endpoint-unreachable": (
        "nothing answers at the address of a service, or its certificate is not trusted",
        "network, proxy, region, `AWS_CA_BUNDLE`",
    ),
    "throttled": (
        'AWS still says `ThrottlingException`, "Rate exceeded", after five tries',
        "wait a minute",
    ),
    "node-not-found": (
        "the resource has fewer nodes that can be reached",
        "ask for one that there is",
    ),
    "not-launched": (
        "an object of the SageMaker SDK has not started its job, or is not deployed yet",
        "start it first: the line shows the call",
    ),
    "target-not-found": (
        "there is no such resource; the line shows names like it",
        "spell it as shown, or `sm-ssh list`",
    ),
    "ambiguous-target": (
        "the name means several resources",
        "name one",
    ),
    "wrong-region": (
        "it is not in this region, but in another that your environment or a profile names; the "
        "line says in which",
        "`--region`",
    ),
    "target-ended": (
        "the resource has ended; with its status and reason",
        "its log tells the rest",
    ),
    "not-instrumented": (
        "the job runs, but was not launched with ssh",
        "`sm-ssh enable`, if it is a training job; else launch it with `enable_ssh` or a wrapper",
    ),
    "network-isolated": (
        "the job was launched with `EnableNetworkIsolation`: nothing in it can reach Systems Manager",
        "launch it without",
    ),
    "registration-limit": (
        'the container was refused with `RegistrationLimitExceeded`: "Registration limit of 20000'
        ' reached for SSM On-prem managed instances."; the line quotes its log',
        "`sm-ssh deregister`",
    ),
    "registration-throttled": (
        "the container's `CreateActivation` was answered with `ThrottlingException`, \"Rate "
        'exceeded", until it gave up; the line quotes its log',
        "go by a node that is registered, and from there to the others",
    ),
    "role-not-trusted": (
        '"Nonexistent role or missing ssm service principal in trust policy": Systems Manager may'
        " not assume the role of the managed instance",
        "let `ssm.amazonaws.com` assume it: [prepare an account](../how-to/prepare-an-account.md)",
    ),
    "registration-failed": (
        "the helper in the container failed otherwise; the line quotes its log",
        "mend what it says, and launch it again",
    ),
    "target-starting": (
        "it runs, and no container of it has registered yet",
        "what connects waits for it; with `--no-wait`: try again in a minute",
    ),
    "target-offline": (
        "its agent does not answer; with the time of the last ping",
        "try again in a minute, or see its log",
    ),
    "target-not-connected": (
        'AWS grants no session, with `TargetNotConnected`: "mi-… is not connected."',
        "try again in a minute; the container may have ended, or lost its network",
    ),
    "instance-not-valid": (
        'AWS takes no command, with `InvalidInstanceId`: "Instances [[mi-…]] not in a valid state'
        ' for account …"',
        "the same",
    ),
    "duplicate-node": (
        "two live instances claim to be the same node; both are named",
        "find out which is not yours",
    ),
    "host-not-trusted": (
        "nothing vouches for the container's host key, or its launch id is another",
        "[how trust works](../adr/0007-trust.md); `--trust-first-use` if you know it is yours and"
        " nothing speaks against it",
    ),
    "host-key-changed": (
        "the tag `SSHHostKey` is not what was pinned for this instance",
        "do not log in before you know who changed it",
    ),
    "wrong-user": (
        "the container admits another login name only",
        "use that name; plain ssh knows it from now on",
    ),
    "key-not-delivered": (
        "the container did not take your public key",
        "launch it from this machine, or with a newer helper",
    ),
    "advanced-tier-off": (
        "the account's advanced-instances tier is off in this region: `BadRequest`, \"Enable "
        'advanced-instances tier to use Session Manager with your on-premises instances"',
        "an administrator runs the command in the line",
    ),
    "wait-timeout": (
        "something did not happen in the time given",
        "",
    ),
    "ssh-missing": (
        "ssh, sftp or ssh-keygen is not on PATH",
        "install OpenSSH's client",
    ),
    "config-broken": (
        "the markers of our block in `~/.ssh/config` are not one beginning and one end",
        "take them out by hand, then `sm-ssh config-ssh`",
    ),
    "port-busy": (
        "another program listens on that port of this machine",
        "the line names a way to another one",
    ),
    "local-setup": (
        "something else on this machine: a file that cannot be read or written, a program that is missing",
        "the line says what",
    ),
    "copy-failed": (
        "files were not copied, or not whole: one side refused, a disk is full, or the link was lost (255)",
        "the line says why; `sm-ssh cp --resume` goes on with what is there",
    ),
    "launch-refused": (
        "a request cannot be launched with ssh",
        "the line says why",
    ),
    "ssh-server-down": (
        "the agent is there, but no ssh server answers in the container, or none can be started in its image",
        "`sm-wait status` there, or its log; `sm-ssh session` is a plain shell",
    ),
    "connection-failed": (
        "the session's WebSocket could not be opened, or stayed lost",
        "network, proxy; connect again",
    ),
    "handshake-failed": (
        "the two ends could not agree on a session",
        "the line says on what",
    ),
    "session-lost": (
        "the service ended the session: an administrator did, or its agent is gone",
        "connect again",
    ),
    "malformed-message": (
        "the other end sent what is no message, or one of an encrypted session was altered",
        "tell us, with a log (`SM_SSH_DEBUG=true`)",
    ),
    "protocol": (
        "the other end sent what is no message, or one of an encrypted session was altered",
        "tell us, with a log (`SM_SSH_DEBUG=true`)",
    ),
    "aws-error": (
        "AWS answered with an error of its own; code and text are in the line",
        "",
    ),
    "aws": (
        "AWS answered with an error of its own; code and text are in the line",
        "",
    ),
    "user": (
        "a mistake of ours; the line names a private file with the details",
        "tell us",
    ),
    "internal": (
        "a mistake of ours; the line names a private file with the details",
        "tell us",
    ),
}
"""By id: what happened, and what to do; the second may be empty."""
