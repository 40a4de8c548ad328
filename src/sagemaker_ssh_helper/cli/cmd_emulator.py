"""``sm-ssh emulator``: the built-in local cloud, on its own or around one command."""

import argparse
import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagemaker_ssh_helper import plain_logs
from sagemaker_ssh_helper.errors import LocalSetup, UsageError

if TYPE_CHECKING:
    from sagemaker_ssh_helper.emulator.server import LocalCloud

_EXTRA = ("boto3", "botocore", "cryptography", "h11", "moto", "werkzeug", "yaml", "py_partiql_parser")
"""What the extra brings, by the names of the modules."""

STOP_GRACE = 10.0
"""Seconds that a command has between our SIGTERM to it and SIGKILL."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "emulator",
        help="run the built-in local cloud; no AWS account needed",
        description="A local cloud on loopback: Systems Manager, SageMaker training jobs as real processes,"
        " S3, IAM, STS, CloudWatch Logs, KMS and SNS. It keeps nothing: all in it is gone when it ends."
        " Jobs in it are processes of yours, not sandboxes.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    start = verbs.add_parser(
        "start",
        help="run it until Ctrl-C",
        description="Runs a local cloud in the foreground, until Ctrl-C or SIGTERM.",
    )
    start.add_argument("--port", type=_port, default=0, metavar="P", help="its port (default: a free one)")
    start.add_argument(
        "--json",
        action="store_true",
        help="print what clients need, secrets included, as one line of JSON, when it is ready",
    )
    start.add_argument(
        "--until-eof",
        action="store_true",
        help="end also when standard input is closed, as it is when the program that holds it dies",
    )
    _add_common(start)
    start.set_defaults(run=run)
    around = verbs.add_parser(
        "run",
        help="run a command in it",
        usage="%(prog)s [--tls] [--require-signed-client] -- COMMAND [ARGUMENT ...]",
        description="Runs a command with a local cloud of its own as its AWS, as the first user (alice). Ends"
        " with the command, and with the command's exit status.",
    )
    _add_common(around)
    around.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    around.set_defaults(run=run)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tls", action="store_true", help="serve https, with a certificate authority of its own"
    )
    parser.add_argument(
        "--require-signed-client",
        action="store_true",
        help="refuse clients that open a data channel without a signature, as older official ones do",
    )


def _port(text: str) -> int:
    if not text.isdigit() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 0 to 65535, 0 for a free one")
    return int(text)


def run(args: argparse.Namespace) -> int:
    command = [] if args.verb == "start" else args.command[args.command[:1] == ["--"] :]
    if args.verb == "run" and not command:
        raise UsageError(
            "there is no command to run", fix="Type it after two dashes: sm-ssh emulator run -- COMMAND"
        )
    environment = dict(os.environ)
    _forget_aws()
    try:
        from sagemaker_ssh_helper.emulator import server
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        missing = isinstance(error, ModuleNotFoundError)
        raise LocalSetup(
            "the local cloud is not installed"
            if missing
            else "the local cloud's packages are of other versions",
            evidence=f"there is no module {error.name}" if missing else str(error),
            fix="Install it, in the folder of this package's source: pip install '.[emulator]'",
        ) from None

    async def main() -> int:
        # Before anything is started, so that whatever is, is also ended.
        asked_to_end = asyncio.Event()
        for signal_number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(signal_number, asked_to_end.set)

        async def started(local: "LocalCloud") -> int:
            if args.verb == "start":
                return await _stay(local, asked_to_end, as_json=args.json, until_eof=args.until_eof)
            return await _run_command(local, asked_to_end, command, environment)

        port = args.port if args.verb == "start" else 0
        return await server.serve(
            started, port=port, tls=args.tls, require_signed_client=args.require_signed_client
        )

    return plain_logs.run(main())


def _forget_aws() -> None:
    # What the user has set for the real AWS must not reach the cloud's own calls, nor break moto's imports.
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"


async def _stay(local: "LocalCloud", asked_to_end: asyncio.Event, *, as_json: bool, until_eof: bool) -> int:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, asked_to_end.set)
    if until_eof:
        threading.Thread(target=_read_to_the_end, args=(loop, asked_to_end), daemon=True).start()
    described = local.describe()
    if as_json:
        import json

        print(json.dumps(described), flush=True)
    else:
        print(_for_people(described), flush=True)
    await asked_to_end.wait()
    return 0


def _read_to_the_end(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    # Unbuffered: a thread inside sys.stdin would hold a lock that the interpreter wants at its end.
    while os.read(0, 4096):
        pass
    with contextlib.suppress(RuntimeError):  # it has ended by itself meanwhile
        loop.call_soon_threadsafe(ended.set)


def _for_people(described: Mapping[str, Any]) -> str:
    lines = [f"A local cloud is running at {described['endpoint_url']}; Ctrl-C ends it.", ""]
    first = described["users"][0]
    settings = {
        "AWS_ENDPOINT_URL": described["endpoint_url"],
        "AWS_REGION": described["region"],
        "AWS_DEFAULT_REGION": described["region"],
        "AWS_ACCESS_KEY_ID": first["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": first["secret_access_key"],
        "AWS_CONFIG_FILE": os.devnull,
    }
    if "ca_file" in described:
        settings["AWS_CA_BUNDLE"] = described["ca_file"]
    lines.append(f"To use it as {first['name']} in another terminal:")
    lines += [f"  export {name}={value}" for name, value in settings.items()]
    lines.append("  unset AWS_PROFILE AWS_SESSION_TOKEN")
    lines += ["", f"Role for jobs: {described['role_arn']}", "Other users:"]
    lines += [
        f"  {user['name']:5}  {user['access_key_id']}  {user['secret_access_key']}"
        for user in described["users"][1:]
    ]
    return "\n".join(lines)


async def _run_command(
    local: "LocalCloud", asked_to_end: asyncio.Event, command: list[str], environment: Mapping[str, str]
) -> int:
    from sagemaker_ssh_helper.emulator.supervised import Supervised

    env = _environment(local, environment)
    # Ctrl-C reaches the command from the terminal; it decides what that means, and we end when it ends.
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)
    try:
        running = await Supervised.start(command, env=env, stdin=None, foreground=True)
    except OSError as error:
        failure = LocalSetup(f"cannot run {command[0]}", evidence=error.strerror)
        # The statuses that shells use.
        failure.exit_code = 127 if isinstance(error, FileNotFoundError) else 126
        raise failure from None

    async def pass_on() -> None:
        await asked_to_end.wait()
        running.stop(STOP_GRACE)

    passing_on = asyncio.create_task(pass_on())
    try:
        status = await running.wait()
    finally:
        passing_on.cancel()
    return 128 - status if status < 0 else status


def _environment(local: "LocalCloud", environment: Mapping[str, str]) -> dict[str, str]:
    """The command's environment: nothing of another AWS, everything for this one."""
    described = local.describe()
    user = described["users"][0]
    empty = Path(local.cloud.state_dir, "empty-aws-config")
    empty.touch(mode=0o600)
    env = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
    env.update(
        AWS_ENDPOINT_URL=described["endpoint_url"],
        AWS_REGION=described["region"],
        AWS_DEFAULT_REGION=described["region"],
        AWS_ACCESS_KEY_ID=user["access_key_id"],
        AWS_SECRET_ACCESS_KEY=user["secret_access_key"],
        AWS_CONFIG_FILE=str(empty),
        AWS_SHARED_CREDENTIALS_FILE=str(empty),
        AWS_EC2_METADATA_DISABLED="true",
    )
    if "ca_file" in described:
        env["AWS_CA_BUNDLE"] = described["ca_file"]
    for name in ("NO_PROXY", "no_proxy"):
        # A proxy cannot reach our loopback.
        kept = [env[name]] if env.get(name) else []
        env[name] = ",".join([*kept, "localhost", "127.0.0.1", "::1"])
    return env
