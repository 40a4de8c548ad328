"""
Which of the peers' versions can do what. Each end compares in its own way, and nothing on the wire says what
it chose, so both ways are here.
"""

import re
from typing import List, Tuple

# What a client looks for in the agent's version. Same in the official client.
TERMINATE_FLAG_ABOVE = "2.3.722.0"
CLIENT_MUX_ABOVE = "3.0.196.0"
CLIENT_QUIET_ABOVE = "3.1.1511.0"

# What an agent looks for in the client's version. Same in the official agent.
AGENT_MUX_FROM = "1.1.70"
AGENT_QUIET_ABOVE = "1.2.331.0"

_NUMBER = re.compile("[0-9]+")
_SEMANTIC = re.compile(r"([0-9]+)\.([0-9]+)\.([0-9]+)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")


def takes_terminate_flag(agent_version: str) -> bool:
    """At the client: whether the agent ends a session by a flag; else only the service ends it."""
    return _is_above(agent_version, TERMINATE_FLAG_ABOVE)


def client_multiplexes(agent_version: str) -> bool:
    """At the client: whether a port forwarding session with this agent is multiplexed."""
    return _is_above(agent_version, CLIENT_MUX_ABOVE)


def client_keeps_alive(agent_version: str) -> bool:
    """At the client: whether a multiplexed session with this agent needs keepalives."""
    return not _is_above(agent_version, CLIENT_QUIET_ABOVE)


def agent_multiplexes(client_version: str) -> bool:
    """At the agent: whether a port forwarding session with this client is multiplexed."""
    return compare(client_version, AGENT_MUX_FROM) >= 0


def agent_keeps_alive(client_version: str) -> bool:
    """At the agent: whether a multiplexed session with this client needs keepalives."""
    return compare(client_version, AGENT_QUIET_ABOVE) <= 0


def _is_above(version: str, threshold: str) -> bool:
    """As official clients compare: as many parts, all of them numbers; anything else can do nothing."""
    parts, least = version.split("."), threshold.split(".")
    if len(parts) != len(least) or not all(_NUMBER.fullmatch(part) for part in parts):
        return False
    return [int(part) for part in parts] > [int(part) for part in least]


def compare(one: str, other: str) -> int:
    """
    Less than 0, 0 or more, as official agents order versions: two semantic versions as such; others part by
    part, as numbers where both are, else as text, and what only goes on longer is greater.
    """
    first, second = _SEMANTIC.fullmatch(one), _SEMANTIC.fullmatch(other)
    if first is not None and second is not None:
        keys = [_semantic_key(match) for match in (first, second)]
        return _order(keys[0] < keys[1], keys[0] > keys[1])
    parts, others = _parts(one), _parts(other)
    for part, beside in zip(parts, others):
        if _NUMBER.fullmatch(part) and _NUMBER.fullmatch(beside):
            order = _order(int(part) < int(beside), int(part) > int(beside))
        else:
            order = _order(part < beside, part > beside)
        if order:
            return order
    return _order(len(parts) < len(others), len(parts) > len(others))


def _parts(version: str) -> List[str]:
    return version.split(".") if version else []


def _semantic_key(match: "re.Match[str]") -> Tuple[Tuple[int, ...], bool, List[Tuple[bool, int, str]]]:
    numbers = tuple(int(match.group(index)) for index in (1, 2, 3))
    before = match.group(4)
    # What comes before a release is less than it, and numbers are less than words.
    words = [
        (False, int(word), "") if _NUMBER.fullmatch(word) else (True, 0, word)
        for word in (before.split(".") if before else [])
    ]
    return numbers, before is None, words


def _order(less: bool, more: bool) -> int:
    return -1 if less else int(more)
