from sagemaker_ssh_helper.emulator.tokens import Tokens


def test_token_is_good_once_for_its_channel_and_side() -> None:
    tokens = Tokens(lifetime=60.0)
    value = tokens.issue("session", "client", now=1.0)

    assert 32 <= len(value) <= 300
    assert not tokens.redeem(value, "session", "agent", now=2.0)
    assert not tokens.redeem(value, "other", "client", now=2.0)
    assert tokens.redeem(value, "session", "client", now=2.0)
    assert not tokens.redeem(value, "session", "client", now=2.0)


def test_token_expires() -> None:
    tokens = Tokens(lifetime=60.0)
    early = tokens.issue("session", "client", now=1.0)

    assert not tokens.redeem(early, "session", "client", now=61.0)


def test_expired_and_revoked_tokens_take_no_room() -> None:
    tokens = Tokens(lifetime=60.0)
    for number in range(100):
        tokens.issue(f"session-{number}", "client", now=float(number))
    assert len(tokens) == 60  # those given at 39 and earlier had expired at 99

    tokens.revoke("session-99")

    assert len(tokens) == 59
