"""Public keys that travel through S3, from a machine that the container does not know."""

from pathlib import Path
from typing import Callable, Iterator

import pytest

from e2e.laptop import Job, Laptop, running
from local_cloud import LocalCloud


@pytest.fixture(scope="module")
def job(laptop: Callable[[str], Laptop]) -> Iterator[Job]:
    with running(laptop("alice")) as job:
        yield job


def test_a_key_is_put_there_and_fetched_by_the_container(
    e2e_cloud: LocalCloud, laptop: Callable[[str], Laptop], job: Job, tmp_path: Path
) -> None:
    bucket = f"sagemaker-{e2e_cloud.info['region']}-{e2e_cloud.info['account_id']}"
    other = laptop("alice")
    place = {"SSH_AUTHORIZED_KEYS_PATH": f"s3://{bucket}/keys of jane/"}
    done = other.sm_ssh("exec", job.host, "--trust-first-use", "--", "echo in", env=place)

    assert (done.returncode, done.stdout) == (0, b"in\n"), done.stderr.decode()
    listed = other.client("s3").list_objects_v2(Bucket=bucket, Prefix="keys of jane/")["Contents"]
    names = [str(found["Key"]).rpartition("/")[2] for found in listed]
    # Once under a name of its own, and once under the name that an older helper in a container reads.
    assert len(names) == 2
    assert "sagemaker-ssh-gw.pub" in names

    # And at a start: a job that finds them, launched by a machine whose own key is not asked for.
    environment = {"SSH_AUTHORIZED_KEYS_PATH": f"s3://{bucket}/keys of jane/"}
    with running(laptop("alice"), Environment=environment) as second:
        done = other.sm_ssh("exec", second.host, "--trust-first-use", "--", "echo in")
        assert done.stdout == b"in\n", (done.stderr, second.log())
        assert b"delivering" not in done.stderr

    # The container knows this key by now: it is put there all the same, for others that look there.
    again = {"SSH_AUTHORIZED_KEYS_PATH": f"s3://{bucket}/again/"}
    assert other.sm_ssh("exec", job.host, "--", "true", env=again).returncode == 0
    assert other.client("s3").list_objects_v2(Bucket=bucket, Prefix="again/")["KeyCount"] == 2
    nowhere = {"SSH_AUTHORIZED_KEYS_PATH": "s3://somebody-elses-bucket/k/"}
    done = other.sm_ssh("exec", job.host, "--", "echo in", env=nowhere)
    assert (done.returncode, done.stdout) == (0, b"in\n")
    assert b"warning: you may not write to s3://somebody-elses-bucket/k" in done.stderr


@pytest.mark.parametrize(
    ("place", "code", "said"),
    [
        ("s3://sagemaker-not-there-at-all/k/", 5, "NoSuchBucket"),
        ("s3://somebody-elses-bucket/k/", 4, "you may not write to s3://somebody-elses-bucket/k"),
        ("keys/", 2, "SSH_AUTHORIZED_KEYS_PATH is no place in S3"),
    ],
)
def test_what_goes_wrong_on_the_way_there_is_explained(
    laptop: Callable[[str], Laptop], job: Job, place: str, code: int, said: str
) -> None:
    done = laptop("alice").sm_ssh(
        "exec", job.host, "--trust-first-use", "--", "true", env={"SSH_AUTHORIZED_KEYS_PATH": place}
    )

    assert done.returncode == code, done.stderr.decode()
    assert said in done.stderr.decode()


def test_what_goes_wrong_in_the_container_reaches_the_user(
    e2e_cloud: LocalCloud, laptop: Callable[[str], Laptop], job: Job
) -> None:
    bucket = f"sagemaker-{e2e_cloud.info['region']}-{e2e_cloud.info['account_id']}"
    with e2e_cloud.fault(kind="deny", action="s3:GetObject", user="SageMakerRole"):
        done = laptop("alice").sm_ssh(
            "exec", job.host, "--trust-first-use", "--", "true",
            env={"SSH_AUTHORIZED_KEYS_PATH": f"s3://{bucket}/k"},
        )  # fmt: skip

    assert done.returncode == 5
    assert b"Let the job's role call s3:GetObject on arn:aws:s3:::" in done.stderr
