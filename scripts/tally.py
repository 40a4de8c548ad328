"""
``python scripts/tally.py COMMAND ...``: run a command that runs tests by run_tests.py, and sum them up.

Prints a table of what each run took, and the last line ``N passed, N failed``. Exits with the status of the
command.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import List


def main(command: List[str]) -> int:
    """Run the command and print the table; the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tally.jsonl"
        status = subprocess.run(command, env={**os.environ, "TALLY": str(path)}, check=False).returncode
        records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    width = max((len(record["tier"]) for record in records), default=0)
    for record in records:
        print(
            f"{record['tier']:{width}}  {record['seconds']:7.1f} s  "
            f"{record['passed']} passed, {record['failed']} failed"
        )
    passed, failed = (sum(record[key] for record in records) for key in ("passed", "failed"))
    print(f"{passed} passed, {failed} failed", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
