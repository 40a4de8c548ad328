"""
A program in the official agent's place, strict about its arguments, its files and its exit codes.

Run as ``amazon-ssm-agent`` of a system whose ``/etc`` and ``/var`` may be written. It notes each start in the
file ``$STAND_IN/starts``, one JSON object a line, and in ``$STAND_IN/script`` what a script finds.
``$STAND_IN/orders`` has a line for each start, too: what a registration answers, or ``crash``; nothing when
it is to go well.
"""

import json
import os
import signal
import subprocess
import sys
import time

CONFIG = "/etc/amazon/ssm/amazon-ssm-agent.json"
DATA = "/var/lib/amazon/ssm"
INSTANCE = "mi-00000000000000042"


def main(words):
    if words == ["-version"]:
        print("SSM Agent version: 3.3.987.0")
        return 0
    with open(CONFIG, encoding="utf-8") as file:
        config = json.load(file)
    note({"words": words, "config": config, "environ": dict(os.environ)})
    order = next_order()
    if words[:1] == ["-register"]:
        return register(words[1:], order)
    if words:
        print("usage: amazon-ssm-agent", file=sys.stderr)
        return 1
    if order == "crash" or not os.path.exists(f"{DATA}/registration"):
        print("Error occurred when starting amazon-ssm-agent: no luck")
        return 2
    return run()


def register(words, order):
    flags = dict(zip(words[1::2], words[2::2]))
    if words[:1] != ["-y"] or sorted(flags) != ["-code", "-id", "-region"]:
        print("usage: amazon-ssm-agent -register", file=sys.stderr)
        return 1
    if len(flags["-code"]) < 20 or len(flags["-id"]) < 36:
        print("the activation is too short", file=sys.stderr)
        return 1
    if order:
        print(f"ERROR Registration with {flags['-code']} failed due to {order}")
        return 1
    os.makedirs(DATA, exist_ok=True)
    descriptor = os.open(f"{DATA}/registration", os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"ManagedInstanceID": INSTANCE, "Region": flags["-region"]}, file)
    print("Successfully registered the instance with AWS SSM")
    return 0


def run():
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    # As for a command or a session; AWS_PROFILE as some versions do.
    script = subprocess.run(
        ["sh", "-c", "env -0"], env={**os.environ, "AWS_PROFILE": "default"}, stdout=subprocess.PIPE
    )
    note(dict(entry.split("=", 1) for entry in script.stdout.decode().split("\0") if entry), "script")
    starter = os.getppid()
    worker = subprocess.Popen([os.path.join(os.path.dirname(sys.argv[0]), "ssm-agent-worker")])
    # Never longer than the test.
    while not ended and os.getppid() == starter and worker.poll() is None:
        time.sleep(0.02)
    worker.terminate()
    worker.wait()
    note({"ended": "by SIGTERM" if ended else "by itself"})
    return 0


def note(entry, name="starts"):
    with open(os.path.join(os.environ["STAND_IN"], name), "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def next_order():
    path = os.path.join(os.environ["STAND_IN"], "orders")
    try:
        with open(path, encoding="utf-8") as file:
            orders = file.read().splitlines()
    except FileNotFoundError:
        return ""
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(orders[1:]))
    return orders[0] if orders else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
