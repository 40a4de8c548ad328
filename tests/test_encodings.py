"""Text of programs and files is UTF-8 whatever the locale says, and what is not ends nothing."""

import ast
from pathlib import Path
from typing import Iterator

import sagemaker_ssh_helper

ROOT = Path(sagemaker_ssh_helper.__file__).parent


def asks_the_locale(call: ast.Call) -> bool:
    """Whether a call reads or writes text without saying in which encoding."""
    given = {keyword.arg for keyword in call.keywords}
    function = ast.unparse(call.func)
    name = function.rpartition(".")[2]
    if function.startswith("subprocess."):
        return bool(given & {"text", "universal_newlines", "errors"}) and not {"encoding", "errors"} <= given
    if function == "open":
        modes = [argument.value for argument in call.args[1:2] if isinstance(argument, ast.Constant)]
        return "encoding" not in given and not any("b" in str(mode) for mode in modes)
    return name in ("read_text", "write_text") and name != function and "encoding" not in given


def test_no_text_is_read_or_written_in_the_locale_s_encoding() -> None:
    def found() -> Iterator[str]:
        for path in sorted(ROOT.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and asks_the_locale(node):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}"

    assert list(found()) == []
