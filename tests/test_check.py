"""Which tests go with what was changed."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
EVERY_TEST = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").rglob("test_*.py"))]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location("check_script", ROOT / "scripts" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("changed", "tests"),
    [
        ("README.md", []),
        ("tests/test_proxy.py", ["tests/test_proxy.py"]),
        ("tests/e2e/test_work.py", []),
        ("src/sagemaker_ssh_helper/wrapper.py", ["tests/test_wrapper.py"]),
        ("src/sagemaker_ssh_helper/client/trust.py", ["tests/client/test_trust.py"]),
    ],
)
def test_tests_by_name(check: ModuleType, changed: str, tests: "list[str]") -> None:
    assert check.tests_of([changed], EVERY_TEST) == tests


def test_a_module_without_tests_of_its_name_has_those_that_import_it(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sources = {
        "tests/a/test_one.py": "from sagemaker_ssh_helper.agent.odd import x",
        "tests/a/test_two.py": "from sagemaker_ssh_helper.agent import even, odd",
        "tests/a/test_three.py": "from sagemaker_ssh_helper.agent import oddity",
        "tests/e2e/test_four.py": "import sagemaker_ssh_helper.agent.odd",
    }
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    found = check.tests_of(["src/sagemaker_ssh_helper/agent/odd.py"], list(sources))
    assert found == ["tests/a/test_one.py", "tests/a/test_two.py"]
