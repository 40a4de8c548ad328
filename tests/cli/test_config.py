"""``sm-ssh config``: what is in force, where it comes from, and a file that keeps what else is in it."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagemaker_ssh_helper.client import settings
from sagemaker_ssh_helper.errors import LocalSetup

from .conftest import SM_SSH

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def sm_ssh(home: Path) -> Run:
    (home / "aws").write_text("[profile dev]\nregion = eu-north-1\n[profile ops]\nregion = eu-south-1\n")

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "AWS_CONFIG_FILE": str(home / "aws"),
            "AWS_EC2_METADATA_DISABLED": "true",
            **variables,
        }
        if "PYTHONPATH" in os.environ:
            environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
        return subprocess.run(
            [*SM_SSH, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def config(sm_ssh: Run) -> Run:
    return functools.partial(sm_ssh, "config")


@pytest.fixture
def file(home: Path) -> Path:
    return home / ".config" / "sm-ssh" / "config.toml"


def origins(config: Run, *words: str, **variables: str) -> dict[str, list[str]]:
    done = config(*words, "list", "--origin", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return {line.partition("=")[0]: line.partition("=")[2].split("\t") for line in done.stdout.splitlines()}


def test_options_come_first_then_the_environment_then_settings_then_aws_files(
    config: Run, file: Path
) -> None:
    assert origins(config) == {}
    assert origins(config, AWS_PROFILE="dev") == {
        "profile": ["dev", "AWS_PROFILE"],
        "region": ["eu-north-1", "profile dev"],
    }
    assert config("set", "profile", "dev").returncode == 0
    assert origins(config) == {"profile": ["dev", str(file)], "region": ["eu-north-1", "profile dev"]}
    assert config("set", "region", "eu-west-1").returncode == 0
    assert origins(config) == {"profile": ["dev", str(file)], "region": ["eu-west-1", str(file)]}
    assert origins(config, AWS_REGION="eu-west-2")["region"] == ["eu-west-2", "AWS_REGION"]
    # Another profile is another account, with a region of its own.
    assert origins(config, AWS_PROFILE="ops") == {
        "profile": ["ops", "AWS_PROFILE"],
        "region": ["eu-south-1", "profile ops"],
    }
    assert origins(config, "--profile", "ops", "--region", "eu-west-3") == {
        "profile": ["ops", "--profile"],
        "region": ["eu-west-3", "--region"],
    }
    # Keys in the environment are somebody; a profile that is only a setting is not asked then.
    keys = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"}
    assert origins(config, **keys) == {"region": ["eu-west-1", str(file)]}


def test_one_is_printed_changed_and_taken_out_again(config: Run, file: Path) -> None:
    assert (config("get", "region").returncode, config("get", "region").stdout) == (1, "")
    config("set", "region", "eu-west-1")
    assert file.stat().st_mode & 0o777 == 0o600
    assert config("get", "region").stdout == "eu-west-1\n"
    file.write_text(f"# mine\n{file.read_text()}# the end")
    config("set", "region", "eu-west-2")
    config("set", "profile", "dev")
    assert file.read_text() == '# mine\nregion = "eu-west-2"\n# the end\nprofile = "dev"\n'
    config("unset", "region")
    assert file.read_text() == '# mine\n# the end\nprofile = "dev"\n'
    assert config("unset", "region").returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["status", "my-job.training.sagemaker"],
        ["start-proxy", "my-job.training.sagemaker"],
        ["session", "my-job.training.sagemaker"],
        ["deregister", "--dry-run"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_uses_them(sm_ssh: Run, words: list[str]) -> None:
    assert sm_ssh("config", "set", "profile", "nobody").returncode == 0
    done = sm_ssh(*words)
    assert done.returncode == (255 if words[0] in ("start-proxy", "session") else 4)
    assert "error[credentials-missing]: The config profile (nobody) could not be found" in done.stderr
    assert "profiles there are: dev, ops" in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("region = eu-west-1", "is no TOML (Invalid value (at line 1, column 10))"),
        ('regoin = "eu-west-1"', "has an unknown setting: regoin (settings are: profile, region)"),
        ("region = 1", "region is no text"),
        ("\udcff", "is no TOML"),
    ],
)
def test_a_file_that_cannot_be_understood_is_one_line(config: Run, file: Path, text: str, said: str) -> None:
    file.parent.mkdir(parents=True)
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    for words in (["list"], ["set", "region", "eu-west-1"]):
        done = config(*words)
        assert (done.returncode, done.stdout) == (9, "")
        (line,) = done.stderr.splitlines()
        assert f"error[local-setup]: {file}" in line
        assert said in line
        assert "sm-ssh config edit" in line
    assert file.read_bytes() == text.encode("utf-8", "surrogateescape")


def test_wrong_words_are_one_line(config: Run) -> None:
    for words in (["set", "colour", "red"], ["get", "colour"], ["unset", "colour"]):
        done = config(*words)
        assert done.returncode == 2
        assert "there is no setting 'colour' (settings are: profile, region)" in done.stderr
    assert "cannot be ' '" in config("set", "region", " ").stderr
    assert config("edit").returncode == 2
    assert "cannot run no-such-editor" in config("edit", EDITOR="no-such-editor").stderr


def test_an_editor_has_the_file_and_what_it_wrote_is_read(config: Run, file: Path) -> None:
    assert config("edit", EDITOR="sh -c 'echo colour = 1 > \"$0\"'").returncode == 9
    assert file.read_text() == "colour = 1\n"


def test_the_paths_are_told(config: Run, file: Path, home: Path) -> None:
    assert config("path").stdout.splitlines() == [
        f"settings={file}",
        f"keys={file.parent}",
        f"state={home}/.local/state/sm-ssh",
        f"cache={home}/.cache/sm-ssh",
    ]


WORD = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1).filter(
    lambda text: text.strip() and text.isprintable()
)


@given(profile=WORD, region=WORD)
def test_what_is_set_is_read_again(
    profile: str, region: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        settings.change("profile", profile)
        settings.change("region", region)
        assert settings.read() == {"profile": profile, "region": region}
        settings.change("profile", None)
        assert settings.read() == {"region": region}


@given(text=st.text())
def test_any_text_is_settings_or_our_error(text: str) -> None:
    try:
        found = settings.parse(text, "config.toml")
    except LocalSetup:
        return
    assert set(found) <= set(settings.NAMES)
