"""The docs tell what the code does."""

import re
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

from local_cloud import clean_environment
from sagemaker_ssh_helper import names

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def reference() -> str:
    return "\n".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))


def constants(holder: type) -> List[str]:
    return [value for name, value in vars(holder).items() if name.isupper() and isinstance(value, str)]


@pytest.mark.parametrize("name", constants(names.Env))
def test_every_variable_is_in_the_reference(name: str) -> None:
    assert f"`{name}`" in reference()


@pytest.mark.parametrize("name", constants(names.Tag))
def test_every_tag_is_in_the_reference(name: str) -> None:
    assert f"`{name}`" in reference()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_each_bound_for_what_a_peer_feeds_has_its_test() -> None:
    page = (ROOT / "docs" / "adr" / "0029-bounds-for-what-a-peer-feeds.md").read_text("utf-8")
    tests = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    rows = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, f"no test: {row}"
        missing = [name for name in named if f"def {name}(" not in tests]
        assert not missing, f"no such test: {missing}"


def test_the_example_of_the_readme_runs_in_a_local_cloud(tmp_path: Path) -> None:
    example = re.search(r"```python\n(import io.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / "launch.py").write_text(example.group(1))
    done = subprocess.run(
        [sys.executable, "-m", "sagemaker_ssh_helper", "emulator", "run", "--", sys.executable, "launch.py"],
        cwd=tmp_path,
        env=clean_environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"sm-ssh connect hello-\d+\.training\.sagemaker", done.stdout.splitlines()[-1])


def test_nothing_tells_to_install_the_older_helper_of_the_same_name() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    # What says that this would be the older helper.
    allowed = {"README.md", "docs/adr/0033-version-3-installed-from-the-source.md"}
    wrong = [
        f"{name}: {line.strip()}"
        for name in listed.stdout.splitlines()
        if name.endswith((".md", ".py", "Dockerfile", "fetch-packages", "Makefile")) and name not in allowed
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if re.search(
            r"(install|download|require)\b[^\n]*[ '\"]sagemaker[-_]ssh[-_]helper(\[\w+\])?['\" `]*$", line
        )
    ]
    assert wrong == []
