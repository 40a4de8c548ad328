"""
One target under atheris, libFuzzer for Python: a process that ends with a finding, or after its runs.

The arguments are the target's name, how many inputs, and the folder where those are kept that reached
something new.
"""

import logging
import sys

import atheris

with atheris.instrument_imports(include=["sagemaker_ssh_helper", "fuzz"]):
    from fuzz.targets import TARGETS

SLOWEST = 30  # seconds for one input, on a busy machine: nothing here may be more than linear
MEMORY_MB = 1024


def main(name: str, runs: str, corpus: str) -> None:
    # What is dropped is told in the log, which would be all that this process does.
    logging.disable(logging.CRITICAL)
    options = [
        f"-runs={runs}",
        f"-max_len={TARGETS[name].longest}",
        f"-timeout={SLOWEST}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-artifact_prefix={corpus}/../{name}-finding-",
        "-print_final_stats=1",
        "-verbosity=1",
        corpus,
    ]
    atheris.Setup([sys.argv[0], *options], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
