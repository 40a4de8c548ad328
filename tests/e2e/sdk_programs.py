"""
Users' programs that need a SageMaker SDK, each in an environment that has it: see the Makefile.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from e2e.laptop import Laptop

TIMEOUT = 240
"""Seconds, far above what a program takes: to import an SDK alone takes ten on a busy machine."""

PYTHON = {
    version: os.path.abspath(os.environ.get(f"SDK{version}_PYTHON", sys.executable)) for version in (2, 3)
}
"""The interpreter that has each major version of the SDK; this one unless the environment names another."""


def command(version: int, laptop: Laptop, program: str, *arguments: str) -> "list[str]":
    """The command line of a program, here or at a path; ``laptop`` becomes a machine that it can run on."""
    # The SDK reports its use to an address of AWS, and waits for it, unless it is told not to.
    settings = laptop.home / "sagemaker.yaml"
    bucket = f"sagemaker-{laptop.info['region']}-{laptop.info['account_id']}"
    modules = {"TelemetryOptOut": True, "Session": {"DefaultS3Bucket": bucket}}
    # JSON is YAML.
    settings.write_text(
        json.dumps({"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": modules}}})
    )
    laptop.env["SAGEMAKER_USER_CONFIG_OVERRIDE"] = str(settings)
    laptop.env["SAGEMAKER_SUPPRESS_V2_WARNING"] = "1"
    return [PYTHON[version], "-W", "ignore", str(Path(__file__).parent / program), *arguments]


def run(version: int, laptop: Laptop, program: str, *arguments: str) -> Any:
    """What the program's last line says, as JSON; it must end well."""
    done = subprocess.run(
        command(version, laptop, program, *arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=laptop.env,
        cwd=laptop.home,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.decode().splitlines()[-1])
