from sagemaker_ssh_helper.emulator.outbox import Outbox


def test_message_comes_again_until_it_is_settled() -> None:
    outbox = Outbox()
    outbox.put("a", b"one", now=10.0)

    assert [delivery.data for delivery in outbox.take_due(now=10.0, retry_interval=3.0)] == [b"one"]
    assert outbox.take_due(now=12.9, retry_interval=3.0) == []
    assert outbox.next_due_at() == 13.0
    [again] = outbox.take_due(now=13.0)
    assert (again.data, again.attempts) == (b"one", 2)
    outbox.settle("a")
    outbox.settle("a")
    assert "a" not in outbox
    assert outbox.next_due_at() is None


def test_new_connection_makes_everything_due_in_order() -> None:
    outbox = Outbox()
    for key in ("a", "b", "c"):
        outbox.put(key, key.encode(), now=1.0)
    outbox.take_due(now=1.0)

    outbox.make_due(now=1.5)

    assert [delivery.key for delivery in outbox.take_due(now=1.5)] == ["a", "b", "c"]
    assert len(outbox) == 3


def test_postponed_message_waits() -> None:
    outbox = Outbox()
    outbox.put("a", b"", now=1.0)
    outbox.postpone("a", until=6.0)
    outbox.postpone("unknown", until=6.0)

    assert outbox.take_due(now=5.9) == []
    assert len(outbox.take_due(now=6.0)) == 1


def test_prefix_chooses_among_keys() -> None:
    outbox = Outbox()
    outbox.put("job 1", b"", now=1.0)
    outbox.put("session 1", b"", now=1.0)

    assert [delivery.key for delivery in outbox.take_due(1.0, 3.0, "job ")] == ["job 1"]
    assert [delivery.key for delivery in outbox.take_due(1.0)] == ["session 1"]


def test_message_that_nothing_answers_is_sent_once() -> None:
    outbox = Outbox()
    outbox.put_once("a", b"one", now=10.0)
    outbox.make_due(now=11.0)

    assert [delivery.data for delivery in outbox.take_due(now=11.0)] == [b"one"]
    assert len(outbox) == 0
