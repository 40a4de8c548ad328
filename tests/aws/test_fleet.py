"""Taking many instances off at once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, Iterator, List

import pytest

from sagemaker_ssh_helper.aws import fleet
from sagemaker_ssh_helper.aws.json_rpc import Client


def test_an_interrupt_while_they_are_handed_out_takes_no_more_off(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    begun: List[str] = []

    class Pool(ThreadPoolExecutor):
        def shutdown(self, *args: Any, **options: Any) -> None:
            super().shutdown(wait=False, cancel_futures=options.get("cancel_futures", False))
            over.set()
            super().shutdown(wait=True)

    class Asked(Client):
        def __init__(self) -> None:
            """Nobody is asked."""

        def call(self, service: str, operation: str, **parameters: Any) -> Any:
            begun.append(parameters["InstanceId"])
            assert over.wait(30)

    def found() -> Iterator[Any]:
        for number in range(100):
            yield SimpleNamespace(id=f"mi-{number:017x}")
        raise KeyboardInterrupt

    monkeypatch.setattr(fleet, "ThreadPoolExecutor", Pool)
    with pytest.raises(KeyboardInterrupt):
        list(fleet.deregister(Asked(), found()))
    assert len(begun) <= 4
