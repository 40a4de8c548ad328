"""
Training jobs that really run: what they find, what is left of them, and how they end. By boto3 alone.
"""

import hashlib
import io
import json
import os
import signal
import socket
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emulator.training_jobs import AS_NOBODY, WITHOUT_MOUNTS, JobCloud, User, unpacked, until

# A child of a child in a session of its own, deaf to polite signals.
ESCAPE = """
    import os, signal, time
    def escape():
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(600)
            os._exit(0)
        os.wait()
"""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobCloud]:
    with JobCloud(tmp_path_factory.mktemp("cloud"), environment={"SECRET_OF_THE_CLOUD": "x"}) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def alice(cloud: JobCloud) -> User:
    return cloud.user("alice")


@pytest.fixture
def admin(cloud: JobCloud) -> Iterator[User]:
    admin = cloud.user("admin")
    yield admin
    admin.switch(kind="stop-timeout", seconds=120)


def channel(name: str, uri: str) -> dict[str, Any]:
    return {
        "ChannelName": name,
        "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri}},
        "ContentType": "text/csv",
    }


def printed(user: User, job: dict[str, Any]) -> Any:
    """The JSON on the last line of a job's log."""
    return json.loads(user.log(job["TrainingJobName"])[-1])


# -- what a job finds and leaves -------------------------------------------------------------------------


def test_job_gets_its_data_and_leaves_its_model(alice: User) -> None:
    rows = os.urandom(300_000)
    alice.put("data/train/rows.bin", rows)
    alice.put("data/train/deep/er.txt", b"deeper")
    one = alice.put("data/one.csv", b"1,2,3")

    job = alice.run(
        """
        import argparse, hashlib, json, os, pathlib
        parser = argparse.ArgumentParser()
        parser.add_argument("--epochs", type=int)
        parser.add_argument("--name")
        parser.add_argument("-f")
        parser.add_argument("--model-dir", default=os.environ["SM_MODEL_DIR"])
        args = parser.parse_args()
        train = pathlib.Path(os.environ["SM_CHANNEL_TRAIN"])
        digest = hashlib.sha256((train / "rows.bin").read_bytes()).hexdigest()
        one = pathlib.Path(os.environ["SM_CHANNEL_ONE"], "one.csv").read_text()
        deep = (train / "deep" / "er.txt").read_text()
        model = f"{args.epochs} {args.name} {args.f} {digest} {one} {deep}"
        pathlib.Path(args.model_dir, "model.txt").write_text(model)
        pathlib.Path(os.environ["SM_OUTPUT_DATA_DIR"], "notes.txt").write_text("notes")
        """,
        HyperParameters={"epochs": "3", "name": "\"two words; $(and) 'more'\"", "f": "true"},
        InputDataConfig=[channel("train", f"s3://{alice.bucket}/data/train/"), channel("one", one)],
    )

    name = job["TrainingJobName"]
    assert (job["TrainingJobStatus"], job.get("FailureReason")) == ("Completed", None)
    artifacts = job["ModelArtifacts"]["S3ModelArtifacts"]
    assert artifacts == f"s3://{alice.bucket}/output/{name}/output/model.tar.gz"
    digest = hashlib.sha256(rows).hexdigest()
    assert unpacked(alice.get(artifacts)) == {
        "model.txt": f"3 two words; $(and) 'more' True {digest} 1,2,3 deeper".encode()
    }
    output = alice.get(f"s3://{alice.bucket}/output/{name}/output/output.tar.gz")
    assert unpacked(output) == {"notes.txt": b"notes"}


def test_job_goes_through_sagemakers_statuses(alice: User) -> None:
    job = alice.run("print('hello')")

    transitions = job["SecondaryStatusTransitions"]
    assert [transition["Status"] for transition in transitions] == [
        "Starting",
        "Downloading",
        "Training",
        "Uploading",
        "Completed",
    ]
    assert [t["EndTime"] for t in transitions[:-1]] == [t["StartTime"] for t in transitions[1:]]
    assert all(transition["StatusMessage"] for transition in transitions)
    assert job["SecondaryStatus"] == "Completed"
    assert job["CreationTime"] <= job["TrainingStartTime"] <= job["TrainingEndTime"]
    assert job["TrainingTimeInSeconds"] >= 1


def test_configuration_files_are_those_of_sagemaker(alice: User) -> None:
    uri = alice.put("data/small.csv", b"1")
    job = alice.run(
        """
        import json, os, pathlib
        base = pathlib.Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
        files = {p.name: json.loads(p.read_text()) for p in (base / "input" / "config").iterdir()}
        print(json.dumps([files, sorted(p.name for p in base.iterdir()), os.getcwd() == str(base / "code")]))
        """,
        HyperParameters={"rate": "0.5"},
        InputDataConfig=[channel("small", uri)],
    )

    files, folders, in_code = printed(alice, job)
    assert files["hyperparameters.json"] == job["HyperParameters"]
    assert files["hyperparameters.json"]["rate"] == "0.5"
    resources = files["resourceconfig.json"]
    assert (resources["current_host"], resources["hosts"]) == ("algo-1", ["algo-1"])
    assert resources["current_instance_type"] == "ml.m5.large"
    assert resources["instance_groups"][0]["hosts"] == ["algo-1"]
    assert files["inputdataconfig.json"] == {
        "small": {
            "ContentType": "text/csv",
            "RecordWrapperType": "None",
            "S3DistributionType": "FullyReplicated",
            "TrainingInputMode": "File",
        }
    }
    assert folders == ["code", "input", "model", "output"]
    assert in_code


def test_environment_is_the_jobs_own(cloud: JobCloud, alice: User) -> None:
    job = alice.run(
        "import json, os; print(json.dumps(dict(os.environ)))",
        Environment={"MINE": "quoted \"and\" 'spaced' $HOME", "TRAINING_JOB_NAME": "not this"},
    )

    environment = printed(alice, job)
    assert environment["MINE"] == "quoted \"and\" 'spaced' $HOME"
    assert environment["TRAINING_JOB_NAME"] == job["TrainingJobName"]
    assert environment["TRAINING_JOB_ARN"] == job["TrainingJobArn"]
    assert environment["AWS_ENDPOINT_URL"] == cloud.info["endpoint_url"]
    assert environment["AWS_REGION"] == environment["AWS_DEFAULT_REGION"] == cloud.info["region"]
    assert json.loads(environment["SM_HOSTS"]) == ["algo-1"]
    assert environment["SM_CURRENT_HOST"] == "algo-1"
    assert "SECRET_OF_THE_CLOUD" not in environment
    assert not any(
        name in environment for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "PYTHONHOME")
    )
    for name in ("HOME", "TMPDIR", "SSH_STATE_DIR"):
        assert environment[name].startswith(str(cloud.temporary)), name


def test_job_acts_as_its_role(cloud: JobCloud, alice: User) -> None:
    job = alice.run(
        """
        import boto3, json
        identity = boto3.client("sts").get_caller_identity()
        print(json.dumps([identity["Arn"], identity["UserId"]]))
        """
    )

    arn, user_id = printed(alice, job)
    role = cloud.info["role_arn"].rsplit("/", 1)[-1]
    assert arn == f"arn:aws:sts::{cloud.info['account_id']}:assumed-role/{role}/SageMaker"
    assert user_id.startswith("AROA")
    assert user_id.endswith(":SageMaker")


def test_job_of_a_cloud_with_tls_trusts_it(tmp_path: Path) -> None:
    with JobCloud(tmp_path, "--tls") as cloud:
        alice = cloud.user("alice")
        job = alice.run(
            """
            import boto3, json, os, ssl, urllib.request
            context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
            url = os.environ["AWS_ENDPOINT_URL"]
            try:
                urllib.request.urlopen(url, context=context)
            except urllib.error.HTTPError:
                pass  # an answer, whichever: the certificate was good
            arn = boto3.client("sts").get_caller_identity()["Arn"]
            print(json.dumps([url, arn.rsplit("/", 1)[-1]]))
            """
        )
        assert (job["TrainingJobStatus"], job.get("FailureReason")) == ("Completed", None)
        url, session = printed(alice, job)
        assert (url, session) == (cloud.info["endpoint_url"], "SageMaker")
        assert url.startswith("https://")


def test_isolated_job_has_no_keys(alice: User) -> None:
    job = alice.run(
        "import json, os; print(json.dumps(sorted(n for n in os.environ if n.startswith('AWS_'))))",
        EnableNetworkIsolation=True,
    )

    assert job["EnableNetworkIsolation"] is True
    assert printed(alice, job) == ["AWS_DEFAULT_REGION", "AWS_EC2_METADATA_DISABLED", "AWS_REGION"]


def test_two_jobs_at_once_do_not_meet(alice: User, tmp_path: Path) -> None:
    script = f"""
        import os, pathlib, time
        name = os.environ["TRAINING_JOB_NAME"]
        base = pathlib.Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
        (base / "model" / "name.txt").write_text(name)
        meeting = pathlib.Path({str(tmp_path)!r})
        meeting.chmod(0o777)
        (meeting / name).touch()
        while len(list(meeting.iterdir())) < 2:
            time.sleep(0.01)
        assert (base / "model" / "name.txt").read_text() == name
    """
    names = [alice.start(script) for _ in range(2)]
    jobs = [alice.wait(name) for name in names]

    assert [job["TrainingJobStatus"] for job in jobs] == ["Completed", "Completed"]
    models = [unpacked(alice.get(job["ModelArtifacts"]["S3ModelArtifacts"])) for job in jobs]
    assert models == [{"name.txt": name.encode()} for name in names]


def test_ended_job_leaves_no_files_on_the_machine(cloud: JobCloud, alice: User) -> None:
    job = alice.run(
        """
        import json, os
        os.mkdir(os.environ["HOME"] + "/closed", 0o500)
        open(os.environ["TMPDIR"] + "/left.txt", "w").write("left")
        print(json.dumps(os.environ["HOME"]))
        """
    )

    home = Path(printed(alice, job))
    assert home.is_relative_to(cloud.temporary)
    assert not home.parent.parent.exists()


def test_artifacts_may_stay_single_files(alice: User) -> None:
    job = alice.run(
        "import os; open(os.path.join(os.environ['SM_MODEL_DIR'], 'model.txt'), 'w').write('plain')",
        OutputDataConfig={"S3OutputPath": f"s3://{alice.bucket}/plain", "CompressionType": "NONE"},
    )

    artifacts = job["ModelArtifacts"]["S3ModelArtifacts"]
    assert artifacts == f"s3://{alice.bucket}/plain/{job['TrainingJobName']}/output/model/"
    assert alice.get(f"{artifacts}model.txt") == b"plain"


def test_checkpoints_come_back_to_the_next_job(alice: User) -> None:
    script = """
        import os, pathlib
        folder = pathlib.Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"), "checkpoints")
        count = len(list(folder.iterdir()))
        (folder / f"epoch-{count}").write_text("weights")
        print(count)
    """
    config = {"S3Uri": f"s3://{alice.bucket}/checkpoints/{alice.new_name()}"}
    counts = [printed(alice, alice.run(script, CheckpointConfig=config)) for _ in range(2)]

    assert counts == [0, 1]


# -- several nodes ---------------------------------------------------------------------------------------


def nodes(count: int) -> dict[str, Any]:
    return {"InstanceType": "ml.m5.large", "InstanceCount": count, "VolumeSizeInGB": 1}


def test_every_node_has_its_own_files_and_its_part_of_the_data(alice: User) -> None:
    for number in range(5):
        alice.put(f"shards/{number}", b"row")
    shared = channel("shared", f"s3://{alice.bucket}/shards/")
    shared["DataSource"]["S3DataSource"]["S3DataDistributionType"] = "ShardedByS3Key"
    only = channel("only", f"s3://{alice.bucket}/shards/")
    only["DataSource"]["S3DataSource"]["InstanceGroupNames"] = ["data"]

    job = alice.run(
        """
        import json, os, pathlib
        base = pathlib.Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
        resources = json.loads((base / "input" / "config" / "resourceconfig.json").read_text())
        data = {p.name: sorted(q.name for q in p.iterdir()) for p in (base / "input" / "data").iterdir()}
        node = os.environ["SM_CURRENT_HOST"]
        (base / "model" / node).write_text(json.dumps([resources, data]))
        (base / "output" / "data" / node).write_text(node)
        """,
        ResourceConfig={
            "VolumeSizeInGB": 1,
            "InstanceGroups": [
                {"InstanceGroupName": "train", "InstanceType": "ml.m5.large", "InstanceCount": 1},
                {"InstanceGroupName": "data", "InstanceType": "ml.c5.xlarge", "InstanceCount": 2},
            ],
        },
        InputDataConfig=[shared, only],
    )

    assert (job["TrainingJobStatus"], job.get("FailureReason")) == ("Completed", None)
    left = unpacked(alice.get(job["ModelArtifacts"]["S3ModelArtifacts"]))
    found = {node: json.loads(text) for node, text in left.items()}
    assert sorted(found) == ["algo-1", "algo-2", "algo-3"]
    groups = [
        {"instance_group_name": "train", "instance_type": "ml.m5.large", "hosts": ["algo-1"]},
        {"instance_group_name": "data", "instance_type": "ml.c5.xlarge", "hosts": ["algo-2", "algo-3"]},
    ]
    for node, (resources, _) in found.items():
        own = groups[0] if node == "algo-1" else groups[1]
        assert resources["current_host"] == node
        assert resources["hosts"] == ["algo-1", "algo-2", "algo-3"]
        assert resources["instance_groups"] == groups
        assert resources["current_group_name"] == own["instance_group_name"]
        assert resources["current_instance_type"] == own["instance_type"]
    everything = ["0", "1", "2", "3", "4"]
    assert found["algo-1"][1] == {"shared": ["0", "3"]}
    assert found["algo-2"][1] == {"shared": ["1", "4"], "only": everything}
    assert found["algo-3"][1] == {"shared": ["2"], "only": everything}
    output = alice.get(f"s3://{alice.bucket}/output/{job['TrainingJobName']}/output/output.tar.gz")
    assert sorted(unpacked(output)) == ["algo-1", "algo-2", "algo-3"]


def test_each_node_writes_its_own_log_stream(alice: User) -> None:
    job = alice.run("import os; print(os.environ['SM_CURRENT_HOST'])", ResourceConfig=nodes(2))

    name = job["TrainingJobName"]
    streams = alice.client("logs").describe_log_streams(
        logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=f"{name}/"
    )["logStreams"]
    assert [stream["logStreamName"].split("/")[1].rsplit("-", 1)[0] for stream in streams] == [
        "algo-1",
        "algo-2",
    ]
    assert sorted(alice.log(name)) == ["algo-1", "algo-2"]


def test_nodes_find_each_other_by_name(alice: User) -> None:
    job = alice.run(
        """
        import os, socket, time
        if os.environ["SM_CURRENT_HOST"] == "algo-2":
            with socket.create_server(("algo-2", 29500)) as server:
                link, peer = server.accept()
                print("met", link.recv(100).decode(), socket.gethostbyname("localhost"))
        else:
            while True:
                try:
                    link = socket.create_connection(("algo-2", 29500))
                    break
                except ConnectionRefusedError:  # not there yet
                    time.sleep(0.05)
            link.sendall(b"algo-1")
            assert socket.gethostbyname("algo-1") != socket.gethostbyname("algo-2")
        """,
        ResourceConfig=nodes(2),
    )

    assert job.get("FailureReason") is None
    assert alice.log(job["TrainingJobName"]) == ["met algo-1 127.0.0.1"]


def test_node_that_fails_ends_the_job(alice: User) -> None:
    job = alice.run(
        """
        import os, sys, time
        if os.environ["SM_CURRENT_HOST"] == "algo-2":
            sys.exit(7)
        time.sleep(600)
        """,
        ResourceConfig=nodes(3),
    )

    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].endswith("exit code: 7")


# -- how it is started -----------------------------------------------------------------------------------


def test_entrypoint_of_the_request_is_run_as_given(alice: User) -> None:
    job = alice.run(
        "raise SystemExit('script mode is not meant')",
        AlgorithmSpecification={
            "TrainingImage": "image",
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["/bin/sh", "-c"],
            "ContainerArguments": [
                "echo \"$0 and $1\"; ls /opt/ml/input/config; python -c 'print(6 * 7)'",
                "a",
            ],
        },
    )

    assert (job["TrainingJobStatus"], job.get("FailureReason")) == ("Completed", None)
    lines = alice.log(job["TrainingJobName"])
    assert lines[0] == "a and "
    assert "resourceconfig.json" in lines
    assert lines[-1] == "42"


def test_shell_script_is_run_with_its_own_interpreter(alice: User) -> None:
    job = alice.run(
        {"train.sh": '#!/bin/bash\necho "$BASH_VERSION" | grep -c . ; echo "$@"\n'},
        HyperParameters={"a": "1", "long": "two words"},
    )

    assert alice.log(job["TrainingJobName"]) == ["1", "-a 1 --long two words"]


def test_own_image_runs_train_from_its_path(alice: User, tmp_path: Path) -> None:
    program = tmp_path / "train"
    program.write_text("#!/bin/sh\necho own $TRAINING_JOB_NAME\n")
    program.chmod(0o755)
    request = alice.request("", Environment={"PATH": str(tmp_path)})
    del request["HyperParameters"]
    alice.sagemaker.create_training_job(**request)
    job = alice.wait(request["TrainingJobName"])

    assert job["TrainingJobStatus"] == "Completed"
    assert alice.log(job["TrainingJobName"]) == [f"own {job['TrainingJobName']}"]


def test_image_without_a_way_to_start_says_what_is_missing(alice: User) -> None:
    request = alice.request("")
    del request["HyperParameters"]
    alice.sagemaker.create_training_job(**request)
    job = alice.wait(request["TrainingJobName"])

    assert job["TrainingJobStatus"] == "Failed"
    assert "CannotStartContainerError" in job["FailureReason"]
    assert "ContainerEntrypoint" in job["FailureReason"]


def wheel(name: str) -> bytes:
    """A package of one module, as a wheel."""
    info = f"{name}-1.0.dist-info"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{name}.py", "VALUE = 'from the wheel'\ndef main(): print('from its command')\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/entry_points.txt", f"[console_scripts]\n{name}-command={name}:main\n")
        archive.writestr(f"{info}/RECORD", "")
    return buffer.getvalue()


def test_requirements_are_installed_for_this_job_alone(alice: User) -> None:
    files = {
        "train.py": "import os, jobs_own; print(jobs_own.VALUE); os.system('jobs_own-command')",
        # A package that is there already costs nothing: it would have to be fetched.
        "requirements.txt": "./jobs_own-1.0-py3-none-any.whl\nboto3\n",
        "jobs_own-1.0-py3-none-any.whl": wheel("jobs_own"),
    }
    job = alice.run(files)
    assert (job["TrainingJobStatus"], job.get("FailureReason")) == ("Completed", None)
    assert alice.log(job["TrainingJobName"])[-2:] == ["from the wheel", "from its command"]

    other = alice.run("import jobs_own")
    assert "No module named 'jobs_own'" in other["FailureReason"]


def test_requirements_that_cannot_be_installed_fail_the_job(alice: User) -> None:
    job = alice.run({"train.py": "print('never')", "requirements.txt": "./missing-1.0-py3-none-any.whl\n"})

    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("AlgorithmError: InstallRequirementsError:\nExitCode 1\n")
    assert "missing-1.0-py3-none-any.whl" in job["FailureReason"]
    assert job["FailureReason"].endswith(", exit code: 1")
    assert "never" not in alice.log(job["TrainingJobName"])


# -- how it fails ----------------------------------------------------------------------------------------


def test_failing_script_is_told_with_its_error(alice: User) -> None:
    job = alice.run("print('so far')\nraise ValueError('no such rows')", HyperParameters={"epochs": "3"})

    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Failed", "Failed")
    reason = job["FailureReason"]
    assert reason.startswith("AlgorithmError: ExecuteUserScriptError:\nExitCode 1\nErrorMessage ")
    assert "ValueError: no such rows" in reason
    assert "train.py --epochs 3" in reason
    assert reason.endswith(", exit code: 1")
    assert "so far" not in reason
    statuses = [transition["Status"] for transition in job["SecondaryStatusTransitions"]]
    assert statuses == ["Starting", "Downloading", "Training", "Uploading", "Failed"]


def test_failure_file_is_the_reason(alice: User) -> None:
    job = alice.run(
        """
        import os
        with open(os.environ["SM_OUTPUT_DIR"] + "/failure", "w") as file:
            file.write("the rows are blue" + "!" * 5000)
        raise SystemExit(7)
        """
    )

    reason = job["FailureReason"]
    assert reason.startswith("AlgorithmError: the rows are blue!!!")
    assert reason.endswith("!, exit code: 7")
    assert len(reason) == 1024


def test_end_by_a_signal_is_an_exit_code(alice: User) -> None:
    job = alice.run("import os; os.kill(os.getpid(), 9)")

    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].endswith(", exit code: 137")


def test_missing_input_is_a_client_error(alice: User) -> None:
    uri = f"s3://{alice.bucket}/nothing/here"
    job = alice.run("print('never')", InputDataConfig=[channel("train", uri)])

    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith(f'ClientError: No S3 objects found under S3 URL "{uri}"')
    assert alice.log(job["TrainingJobName"]) == []


def test_broken_source_archive_is_a_client_error(alice: User) -> None:
    broken = alice.put("broken.tar.gz", b"not an archive")
    job = alice.run("", HyperParameters={"sagemaker_submit_directory": json.dumps(broken)})

    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith(f"ClientError: {broken} is not an archive that can be unpacked")


def test_role_without_rights_cannot_read(alice: User, admin: User) -> None:
    iam = admin.client("iam")
    trust = {
        "Effect": "Allow",
        "Principal": {"Service": "sagemaker.amazonaws.com"},
        "Action": "sts:AssumeRole",
    }
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    role = iam.create_role(RoleName=admin.new_name("role"), AssumeRolePolicyDocument=document)["Role"]["Arn"]

    job = admin.run("print('never')", RoleArn=role)

    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("ClientError: Data download failed: s3://")
    assert "403" in job["FailureReason"] or "AccessDenied" in job["FailureReason"]


# -- how it is ended -------------------------------------------------------------------------------------


def test_stopped_job_may_save_its_model(alice: User) -> None:
    name = alice.start(
        """
        import os, signal, sys, time
        def save(*_):
            open(os.environ["SM_MODEL_DIR"] + "/model.txt", "w").write("saved in time")
            print("saved")
            sys.exit(3)
        signal.signal(signal.SIGTERM, save)
        print("training")
        while True:
            time.sleep(60)
        """
    )
    alice.wait_for_line(name, "training")

    alice.sagemaker.stop_training_job(TrainingJobName=name)

    assert alice.describe(name)["TrainingJobStatus"] in ("Stopping", "Stopped")
    job = alice.wait(name)
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert "FailureReason" not in job
    statuses = [transition["Status"] for transition in job["SecondaryStatusTransitions"]]
    assert statuses == ["Starting", "Downloading", "Training", "Stopping", "Uploading", "Stopped"]
    model = unpacked(alice.get(job["ModelArtifacts"]["S3ModelArtifacts"]))
    assert model == {"model.txt": b"saved in time"}
    assert alice.log(name)[-1] == "saved"


def test_job_deaf_to_sigterm_is_killed_in_time(alice: User, admin: User) -> None:
    admin.switch(kind="stop-timeout", seconds=0.2)
    name = alice.start(
        """
        import signal, time
        signal.signal(signal.SIGTERM, lambda *_: print("heard"))
        print("training")
        while True:
            time.sleep(60)
        """
    )
    alice.wait_for_line(name, "training")

    alice.sagemaker.stop_training_job(TrainingJobName=name)

    job = alice.wait(name)
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert alice.log(name) == ["training", "heard"]


def test_job_that_is_not_up_yet_can_be_stopped(alice: User) -> None:
    name = alice.start("import time; time.sleep(600)")
    alice.sagemaker.stop_training_job(TrainingJobName=name)

    job = alice.wait(name)
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "Stopped")


def test_job_ends_at_its_time_limit(alice: User, admin: User) -> None:
    admin.switch(kind="stop-timeout", seconds=0.2)
    job = alice.run(
        "import time; print('training'); time.sleep(600)", StoppingCondition={"MaxRuntimeInSeconds": 1}
    )

    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    assert "FailureReason" not in job
    seconds = (job["TrainingEndTime"] - job["TrainingStartTime"]).total_seconds()
    assert 1 <= seconds < 20


def test_what_a_script_left_running_ends_with_it(alice: User) -> None:
    job = alice.run(textwrap.dedent(ESCAPE) + "escape(); print(os.getpid())")

    # The log is complete only when the last holder of the pipe has gone: that it is, says it.
    assert job["TrainingJobStatus"] == "Completed"
    assert len(alice.log(job["TrainingJobName"])) == 1


def test_job_that_kills_its_supervisor_ends(alice: User) -> None:
    job = alice.run(
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            time.sleep(8)  # holds the log's pipe, and nobody is left who would know of it
            os._exit(0)
        os.kill(os.getppid(), 9)
        time.sleep(600)
        """
    )

    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].endswith(", exit code: 137")


# -- its log ---------------------------------------------------------------------------------------------


def test_log_stream_has_sagemakers_name(alice: User) -> None:
    job = alice.run("print('hello')")

    name = job["TrainingJobName"]
    streams = alice.client("logs").describe_log_streams(
        logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=f"{name}/"
    )["logStreams"]
    assert len(streams) == 1
    prefix, _, seconds = streams[0]["logStreamName"].rpartition("-")
    assert prefix == f"{name}/algo-1"
    assert abs(int(seconds) - job["TrainingStartTime"].timestamp()) < 60


def test_line_is_in_the_log_while_the_job_runs(alice: User, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    name = alice.start(
        f"import os, time; print('now')\nwhile not os.path.exists({str(seen)!r}): time.sleep(0.01)"
    )

    alice.wait_for_line(name, "now")

    assert alice.describe(name)["TrainingJobStatus"] == "InProgress"
    seen.touch()
    assert alice.wait(name)["TrainingJobStatus"] == "Completed"


def test_output_of_any_bytes_is_kept_as_lines(alice: User) -> None:
    job = alice.run(
        r"""
        import sys
        out = sys.stdout.buffer
        out.write("grüße 🙂\n\n".encode() + b"not \xff\xfe utf-8\n" + b"x" * 500_000 + b"\nno end")
        out.flush()
        sys.stderr.write("\nlast words")
        """
    )

    lines = alice.log(job["TrainingJobName"])
    assert lines[:2] == ["grüße 🙂", "not \ufffd\ufffd utf-8"]
    assert "".join(lines[2:-2]) == "x" * 500_000
    assert lines[-2:] == ["no end", "last words"]


def test_flood_of_output_harms_neither_job_nor_cloud(tmp_path: Path) -> None:
    with JobCloud(tmp_path, environment={"SM_SSH_JOB_LOG_BYTES": str(8 << 20)}) as cloud:
        alice = cloud.user("alice")
        alice.run("print('what a first job needs is in memory now')")
        before = resident_bytes(cloud)
        job = alice.run(
            """
            import os
            os.write(1, b"first\\n")
            block = (b"flood" * 100 + b"\\n") * 2000
            for _ in range(300):
                os.write(1, block) == len(block) or os._exit(9)
            os.write(1, b"last\\n")
            """
        )

        assert (job["TrainingJobStatus"], job.get("FailureReason")) == ("Completed", None)
        lines = alice.log(job["TrainingJobName"])
        assert (lines[0], lines[-1]) == ("first", "last")
        notes = [line for line in lines if line.startswith("[local cloud: ")]
        assert len(notes) == 1
        left_out = int(notes[0].split()[2])
        assert left_out + len(lines) - 1 == 300 * 2000 + 2
        assert resident_bytes(cloud) - before < 64 << 20  # 300 MB were written


def resident_bytes(cloud: JobCloud) -> int:
    pages = Path(f"/proc/{cloud.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


# -- the cloud's own end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_survives_the_cloud(tmp_path: Path, number: int) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    script = textwrap.dedent(ESCAPE) + textwrap.dedent(
        f"""
        import socket
        connection = socket.create_connection(("127.0.0.1", {listener.getsockname()[1]}))
        connection.set_inheritable(True)
        escape()
        connection.sendall(b"up")
        time.sleep(600)
        """
    )
    with JobCloud(tmp_path) as cloud:
        alice = cloud.user("alice")
        alice.start(script)
        listener.settimeout(60)
        connection, _ = listener.accept()
        connection.settimeout(60)
        assert connection.recv(2) == b"up"

        cloud.process.send_signal(number)
        cloud.process.wait(60)

        assert connection.recv(1) == b"", "the job and what escaped from it held the connection"
        connection.close()
    listener.close()
    until(lambda: not list(cloud.temporary.glob("sm-ssh-cloud-*")), "the cloud's folder to go")


@pytest.mark.parametrize("become", [AS_NOBODY, WITHOUT_MOUNTS])
def test_jobs_run_where_opt_ml_cannot_be_theirs(tmp_path: Path, become: str) -> None:
    prefix = [sys.executable, "-c", become] if os.geteuid() == 0 else []
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    with JobCloud(tmp_path / "cloud", prefix=prefix) as cloud:
        alice = cloud.user("alice")
        uri = alice.put("data/small.csv", b"1,2")
        job = alice.run(
            """
            import json, os, sys
            open(os.environ["SM_MODEL_DIR"] + "/model.txt", "w").write("mine")
            small = open(os.environ["SM_CHANNEL_SMALL"] + "/small.csv").read()
            base = os.environ["SAGEMAKER_BASE_DIR"]
            print(json.dumps([os.geteuid(), base, os.getcwd(), small, sys.argv[1:]]))
            """,
            HyperParameters={"model_dir": '"/opt/ml/model"'},
            InputDataConfig=[channel("small", uri)],
        )
        assert (job["TrainingJobStatus"], job.get("FailureReason")) == ("Completed", None)
        uid, base, cwd, small, arguments = printed(alice, job)
        assert uid != 0 or become == WITHOUT_MOUNTS
        assert base.startswith(str(cloud.temporary))
        assert (cwd, small) == (f"{base}/code", "1,2")
        assert arguments == ["--model_dir", f"{base}/model"]
        assert unpacked(alice.get(job["ModelArtifacts"]["S3ModelArtifacts"])) == {"model.txt": b"mine"}
