"""
What ``--help`` of each command shows at its end: lines that can be typed. A test reads each by its command.
"""

from __future__ import annotations

from collections.abc import Mapping

JOB = "my-job.training.sagemaker"

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "exec": (f"exec {JOB} -- nvidia-smi", "exec --all my-job -- df -h /opt/ml"),
    "cp": (f"cp train.py {JOB}:/opt/ml/code/", f"cp -r {JOB}:/opt/ml/checkpoints ./"),
    "forward": (f"forward {JOB} 8888", f"forward {JOB} 8080:localhost:80 --open"),
    "session": (
        f"session {JOB}",
        f"session {JOB} --document AWS-StartInteractiveCommand --parameter command=top",
    ),
    "list": ("list", "list training --mine --since 2h"),
    "status": (f"status {JOB}", "status my-job --json"),
    "wait": (f"wait {JOB} --timeout 15m", f"wait {JOB} --for ended --json"),
    "logs": (f"logs {JOB} -f", f"logs {JOB} --since 10m --grep loss"),
    "continue": (f"continue {JOB}", "continue my-job"),
    "enable": (f"enable {JOB}", "enable my-job --no-wait"),
    "disable": (f"disable {JOB}", "disable my-job"),
    "stop": (f"stop {JOB}", "stop --yes my-job"),
    "ide": (f"ide {JOB}", f"ide --app pycharm {JOB} /opt/ml/code"),
    "doctor": ("doctor", f"doctor {JOB}"),
    "config": ("config list", "config set region eu-west-1"),
    "config-ssh": ("config-ssh", 'config-ssh --profile ml-dev -o "ForwardAgent yes"'),
    "known-hosts": (f"known-hosts {JOB}", "known-hosts algo-2.my-job.training.sagemaker"),
    "explain": ("explain target-offline", "explain TargetNotConnected"),
    "deregister": ("deregister --dry-run", "deregister --delete-older-than-n-days 30"),
    "emulator": ("emulator start", "emulator run -- python my_program.py"),
    "demo": ("demo", "demo my_train.py --input train=./data"),
}
"""By command, without the program's name."""


def of(command: str) -> str:
    """The end of a command's help; empty where it has none here."""
    lines = EXAMPLES.get(command, ())
    return "".join(["examples:\n", *(f"  sm-ssh {line}\n" for line in lines)]) if lines else ""
