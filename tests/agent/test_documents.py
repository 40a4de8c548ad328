"""Parameters, placeholders and steps: what documents say, and what is made of it."""

from typing import Any, Dict, List

import pytest

from agent.fake_service import RUN_SHELL_SCRIPT
from sagemaker_ssh_helper.agent.documents import (
    DocumentRefused,
    Step,
    command_steps,
    parameter_values,
    refuse_references,
    substitute,
)

pytestmark = pytest.mark.container


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{{ port }}", "22"),
        ("{{port}}", "22"),
        ("{{ lines }}", ["a", "b"]),
        ("-p {{ port }} {{port}}", "-p 22 22"),
        ("run {{ lines }}", 'run ["a","b"]'),
        ("{{ money }}", "1$$"),
        ("costs {{ money }}", "costs 1$"),
        ("{{ unknown }} {{ port }}", "{{ unknown }} 22"),
        ("{{ nested }}", "{{ port }}"),
        ("x {{ nested }}", "x {{ port }}"),
        ("{{ with-dash }}", "{{ with-dash }}"),
        ({"a": ["{{ port }}", 1, None, True]}, {"a": ["22", 1, None, True]}),
    ],
)
def test_placeholders_are_replaced_once_at_any_depth(value: Any, expected: Any) -> None:
    parameters = {"port": "22", "lines": ["a", "b"], "money": "1$$", "nested": "{{ port }}"}

    assert substitute(value, parameters) == expected


@pytest.mark.parametrize(
    ("definition", "supplied", "expected"),
    [
        ({"type": "String"}, "x", "x"),
        ({"type": "String"}, ["x"], "x"),
        ({}, ["x"], "x"),
        ({"type": "String"}, ["x", "y"], ["x", "y"]),
        ({"type": "StringList"}, ["x"], ["x"]),
        ({"type": "StringList"}, "x", ["x"]),
        ({"type": "String", "allowedPattern": "^a+$"}, "aaa", "aaa"),
        ({"type": "StringList", "allowedPattern": "^a"}, ["ab", "ac"], ["ab", "ac"]),
        ({"type": "Integer", "allowedPattern": "^4"}, 42, 42),
    ],
)
def test_values_take_the_type_of_their_parameter(
    definition: Dict[str, Any], supplied: Any, expected: Any
) -> None:
    assert parameter_values({"p": definition}, {"p": supplied, "other": "x"}) == {"p": expected}


def test_defaults_fill_in_and_parameters_without_a_value_are_left_out() -> None:
    definitions = {"a": {"type": "String", "default": "1"}, "b": {"type": "String"}}

    assert parameter_values(definitions, {}) == {"a": "1"}
    assert parameter_values(None, {"a": "1"}) == {}


@pytest.mark.parametrize(
    ("definition", "value"),
    [
        ({"allowedPattern": "^a+$"}, "b"),
        ({"type": "StringList", "allowedPattern": "^a"}, ["a", "b"]),
        ({"allowedPattern": "("}, "a"),
        ("String", "a"),
    ],
)
def test_values_that_are_not_allowed_are_refused(definition: Any, value: Any) -> None:
    with pytest.raises(DocumentRefused):
        parameter_values({"p": definition}, {"p": value})


@pytest.mark.parametrize("text", ["{{ ssm:name }}", "x {{ssm:/a/b}} y", "{{ ssm-secure:name:3 }}"])
def test_references_to_parameter_store_are_refused(text: str) -> None:
    with pytest.raises(DocumentRefused, match="Parameter Store"):
        refuse_references({"a": [text]})


def test_other_braces_are_no_references() -> None:
    assert refuse_references({"a": ["{{ name }}", "{{ ssm }}", "ssm:name"]}, None) is None


def content(document: Any, **parameters: Any) -> Dict[str, Any]:
    return {"DocumentContent": document, "Parameters": parameters}


def main_steps(*steps: Any, version: str = "2.2") -> Dict[str, Any]:
    return {
        "schemaVersion": version,
        "parameters": {"commands": {"type": "StringList"}, "os": {"type": "String", "default": "Linux"}},
        "mainSteps": list(steps),
    }


def step(name: str, **fields: Any) -> Dict[str, Any]:
    return {
        "action": "aws:runShellScript",
        "name": name,
        "inputs": {"runCommand": "{{ commands }}"},
        **fields,
    }


def test_command_of_schema_1() -> None:
    (found,) = command_steps(content(RUN_SHELL_SCRIPT, commands=["echo a", "echo b"], executionTimeout="60"))

    assert (found.key, found.action, found.step_name) == ("aws:runShellScript", "aws:runShellScript", "")
    assert found.script == "echo a\necho b\n"
    assert (found.timeout, found.working_directory) == (60, "")


def test_command_of_schema_2() -> None:
    document = main_steps(step("one"), step("two", inputs={"runCommand": ["echo", "{{ commands }}"]}))

    first, second = command_steps(content(document, commands=["echo a", "echo b"]))

    assert (first.key, first.step_name, first.script) == ("one", "one", "echo a\necho b\n")
    assert (second.key, second.script) == ("two", "echo\necho a\necho b\n")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("60", 60),
        (5, 5),
        ("172800", 172800),
        ("4", 3600),
        ("172801", 3600),
        ("", 3600),
        ("x", 3600),
        (None, 3600),
    ],
)
def test_timeouts_outside_their_range_count_as_an_hour(value: Any, seconds: int) -> None:
    assert Step("k", "a", {"timeoutSeconds": value}).timeout == seconds


@pytest.mark.parametrize("value", [None, [], 3, ["a", 1], {"a": 1}])
def test_run_command_must_be_commands(value: Any) -> None:
    with pytest.raises(DocumentRefused, match="runCommand is no list of commands"):
        _ = Step("k", "a", {"runCommand": value}).script


@pytest.mark.parametrize(
    ("precondition", "applies"),
    [
        ({}, True),
        ({"StringEquals": ["platformType", "Linux"]}, True),
        ({"StringEquals": ["platformType", "Windows"]}, False),
        ({"StringEquals": ["{{ os }}", "Linux"]}, True),
        ({"StringEquals": ["{{ os }}", "Plan 9"]}, False),
    ],
)
def test_steps_are_for_the_platforms_of_their_precondition(
    precondition: Dict[str, Any], applies: bool
) -> None:
    document = main_steps(step("one", precondition=precondition))

    (found,) = command_steps(content(document, commands=["true"]))

    assert found.applies_to("Linux") is applies


@pytest.mark.parametrize(
    ("precondition", "version", "reason"),
    [
        ({"StringLike": ["platformType", "L*"]}, "2.2", "operator StringLike is not supported"),
        ({"StringEquals": ["platformType"]}, "2.2", "needs two texts"),
        ({"StringEquals": "platformType"}, "2.2", "needs two texts"),
        ({"StringEquals": ["platformType", 1]}, "2.2", "needs two texts"),
        ({"StringEquals": ["platformType", "Linux"]}, "2.0", "needs schema version 2.2"),
    ],
)
def test_preconditions_of_other_forms_are_refused(
    precondition: Dict[str, Any], version: str, reason: str
) -> None:
    document = main_steps(step("one", precondition=precondition), version=version)
    (found,) = command_steps(content(document, commands=["true"]))

    with pytest.raises(DocumentRefused, match=reason):
        found.applies_to("Linux")


BAD_DOCUMENTS: List[Any] = [
    None,
    [],
    {"schemaVersion": "9.9"},
    {"schemaVersion": "1.2"},
    {"schemaVersion": "1.2", "runtimeConfig": {"aws:runShellScript": "x"}},
    {"schemaVersion": "1.2", "runtimeConfig": {"aws:runShellScript": {"properties": ["x"]}}},
    {"schemaVersion": "2.2", "mainSteps": "x"},
    {"schemaVersion": "2.2", "mainSteps": ["x"]},
    {"schemaVersion": "2.2", "mainSteps": [{"action": "aws:runShellScript"}]},
    {"schemaVersion": "2.2", "mainSteps": [{"action": 1, "name": "a"}]},
    main_steps(step("one"), step("one")),
    main_steps(step("one", inputs="x")),
    main_steps(step("one", precondition="x")),
    main_steps(step("one", inputs={"runCommand": ["echo {{ ssm:secret }}"]})),
]


@pytest.mark.parametrize("document", BAD_DOCUMENTS)
def test_documents_that_are_none_are_refused(document: Any) -> None:
    with pytest.raises(DocumentRefused):
        command_steps(content(document, commands=["true"]))
