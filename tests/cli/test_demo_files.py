"""What ``sm-ssh demo SCRIPT`` packs: what is named, and nothing that only lies there."""

from pathlib import Path

from sagemaker_ssh_helper.cli.demo import Job


def write(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def test_a_script_goes_alone(tmp_path: Path) -> None:
    write(tmp_path / "train.py", tmp_path / ".ssh" / "id_rsa", tmp_path / "notes")
    assert set(Job(script=str(tmp_path / "train.py")).files()) == {"train.py"}


def test_a_source_folder_goes_without_what_is_never_meant(tmp_path: Path) -> None:
    write(
        tmp_path / "src" / "train.py",
        tmp_path / "src" / "lib" / "a.py",
        tmp_path / "src" / ".git" / "config",
        tmp_path / "src" / ".venv-x" / "b",
        tmp_path / "src" / ".ssh" / "id",
        tmp_path / "src" / "lib" / "__pycache__" / "a.pyc",
        tmp_path / "extra.txt",
        tmp_path / "other",
    )
    (tmp_path / "src" / "nowhere").symlink_to("missing")
    sources = [str(tmp_path / "src"), str(tmp_path / "extra.txt")]
    job = Job(script=str(tmp_path / "src" / "train.py"), sources=sources)
    assert job.program == "train.py"
    assert set(job.files()) == {"train.py", "lib/a.py", "extra.txt"}


def test_a_script_deep_in_its_source_folder_keeps_its_place(tmp_path: Path) -> None:
    write(tmp_path / "src" / "jobs" / "train.py", tmp_path / "src" / "lib.py")
    job = Job(script=str(tmp_path / "src" / "jobs" / "train.py"), sources=[str(tmp_path / "src")])
    assert job.program == "jobs/train.py"
    assert set(job.files()) == {"jobs/train.py", "lib.py"}
