"""
Documents of Systems Manager, as an agent gets them: parameters, placeholders, and the steps of a command.

A session's document and a command's share the parameters; see :mod:`sagemaker_ssh_helper.agent.session` and
:mod:`sagemaker_ssh_helper.agent.jobs` for what is done with them. Pure.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple

RUN_SHELL_SCRIPT = "aws:runShellScript"

COMMAND_SCHEMAS = ("1.0", "1.2", "2.0", "2.0.1", "2.0.2", "2.0.3", "2.2")
"""Schema versions of command documents that agents accept."""

# Outside this range the timeout counts as not given. Seconds; same in the official agent.
MIN_TIMEOUT = 5
MAX_TIMEOUT = 172800
DEFAULT_TIMEOUT = 3600

_PLACEHOLDER = re.compile(r"\{\{ *([A-Za-z0-9]+) *\}\}")
_SERVICE_PLACEHOLDER = re.compile(r"\{\{ *(ssm(?:-secure)?:[^ }]+) *\}\}")


TOO_DEEP = "the document is nested too deeply"


class DocumentRefused(ValueError):
    """A document that we cannot do what it asks for. Its text says why, in one line."""


@dataclass(frozen=True)
class Step:
    """
    One step of a command document, its placeholders filled in.

    ``key`` is what its result is filed under: the plugin for schema 1.x, the step's name for 2.x.
    """

    key: str
    action: str
    inputs: Mapping[str, Any] = field(repr=False)
    precondition: Mapping[str, Any] = field(default_factory=dict)
    precondition_allowed: bool = True
    step_name: str = ""

    @property
    def script(self) -> str:
        """
        The commands of an aws:runShellScript step, one after another. Raises DocumentRefused.

        A list in a list is taken as one list: documents write ``["{{ commands }}"]`` for a list parameter.
        """
        found = self.inputs.get("runCommand")
        lines = _flatten(found if isinstance(found, list) else [found])
        if not lines or not all(isinstance(line, str) for line in lines):
            raise DocumentRefused("runCommand is no list of commands")
        return "\n".join(lines) + "\n"

    @property
    def timeout(self) -> int:
        """Seconds the step may take."""
        try:
            seconds = int(str(self.inputs.get("timeoutSeconds", "")).strip())
        except ValueError:
            return DEFAULT_TIMEOUT
        return seconds if MIN_TIMEOUT <= seconds <= MAX_TIMEOUT else DEFAULT_TIMEOUT

    @property
    def working_directory(self) -> str:
        """An absolute path, or nothing."""
        found = self.inputs.get("workingDirectory")
        return found if isinstance(found, str) and found.startswith("/") else ""

    @property
    def on_failure(self) -> str:
        """``exit`` or ``successAndExit``: a failure of this step ends the command; else nothing."""
        found = self.inputs.get("onFailure")
        return found if found in ("exit", "successAndExit") else ""

    def applies_to(self, platform: str) -> bool:
        """
        Whether the step is for ``platform`` (``Linux``, ``MacOS``). Raises DocumentRefused for a precondition
        of a form that is not known.
        """
        if self.precondition and not self.precondition_allowed:
            raise DocumentRefused("a precondition needs schema version 2.2")
        for operator, arguments in self.precondition.items():
            if operator != "StringEquals":
                raise DocumentRefused(f"the precondition's operator {operator} is not supported")
            if (
                not isinstance(arguments, list)
                or len(arguments) != 2
                or not all(isinstance(argument, str) for argument in arguments)
            ):
                raise DocumentRefused("the precondition StringEquals needs two texts")
            first, second = (platform if argument == "platformType" else argument for argument in arguments)
            if first != second:
                return False
        return True


def parameter_values(definitions: Any, supplied: Mapping[str, Any]) -> Dict[str, Any]:
    """
    The value of each parameter: what was supplied, else its default.

    The public API writes every value as a list of texts; a parameter of type String becomes its only text.
    Raises DocumentRefused for a value that the parameter's allowedPattern does not match.
    """
    values: Dict[str, Any] = {}
    for name, definition in definitions.items() if isinstance(definitions, dict) else ():
        if not isinstance(definition, dict):
            raise DocumentRefused(f"the parameter {name} is not defined by an object")
        value = supplied.get(name, definition.get("default"))
        if definition.get("type") in (None, "String") and isinstance(value, list) and len(value) == 1:
            value = value[0]
        elif definition.get("type") == "StringList" and isinstance(value, str):
            value = [value]
        if value is None:
            continue
        _check_pattern(name, definition.get("allowedPattern"), value)
        values[name] = value
    return values


def refuse_references(*values: Any) -> None:
    """Raise DocumentRefused when anything in these JSON values refers to Parameter Store."""
    reference = _SERVICE_PLACEHOLDER.search(json.dumps(values))
    if reference:
        raise DocumentRefused(f"references to Parameter Store are not supported: {reference.group(1)}")


def substitute(value: Any, parameters: Mapping[str, Any]) -> Any:
    """
    The value with its placeholders ``{{ name }}`` replaced, at any depth, once.

    A text that is one placeholder becomes the parameter's value with its type; inside a text the value is
    written as text. Names that are no parameter stay as they are.
    """
    if isinstance(value, dict):
        return {key: substitute(item, parameters) for key, item in value.items()}
    if isinstance(value, list):
        return [substitute(item, parameters) for item in value]
    if not isinstance(value, str):
        return value
    whole = _PLACEHOLDER.fullmatch(value.strip())
    if whole and whole.group(1) in parameters:
        return parameters[whole.group(1)]

    def as_text(match: "re.Match[str]") -> str:
        if match.group(1) not in parameters:
            return match.group(0)
        found = parameters[match.group(1)]
        text = found if isinstance(found, str) else json.dumps(found, separators=(",", ":"))
        return text.replace("$$", "$")

    return _PLACEHOLDER.sub(as_text, value)


def command_steps(content: Mapping[str, Any]) -> Tuple[Step, ...]:
    """
    The steps of a command, from the content of an agent_job. Raises DocumentRefused.
    """
    try:
        return _command_steps(content)
    except RecursionError:
        raise DocumentRefused(TOO_DEEP) from None


def _command_steps(content: Mapping[str, Any]) -> Tuple[Step, ...]:
    document = content.get("DocumentContent")
    if not isinstance(document, dict):
        raise DocumentRefused("the command carries no document")
    version = document.get("schemaVersion")
    if version not in COMMAND_SCHEMAS:
        raise DocumentRefused(f"schema version {version!r} is not supported")
    supplied = content.get("Parameters")
    refuse_references(document, supplied)
    parameters = parameter_values(document.get("parameters"), supplied if isinstance(supplied, dict) else {})
    if version.startswith("1."):
        steps = _steps_of_runtime_config(document.get("runtimeConfig"), parameters)
    else:
        steps = _steps_of_main_steps(document.get("mainSteps"), parameters, version == "2.2")
    if not steps:
        raise DocumentRefused("the document has no steps")
    return tuple(steps)


def _steps_of_runtime_config(config: Any, parameters: Mapping[str, Any]) -> List[Step]:
    steps: List[Step] = []
    for action, plugin in config.items() if isinstance(config, dict) else ():
        properties = plugin.get("properties") if isinstance(plugin, dict) else None
        for inputs in properties if isinstance(properties, list) else [properties]:
            if not isinstance(inputs, dict):
                raise DocumentRefused(f"the properties of {action} are no object")
            steps.append(Step(action, action, substitute(inputs, parameters)))
    return steps


def _steps_of_main_steps(main_steps: Any, parameters: Mapping[str, Any], preconditions: bool) -> List[Step]:
    steps: List[Step] = []
    for step in main_steps if isinstance(main_steps, list) else ():
        action, name = (step.get("action"), step.get("name")) if isinstance(step, dict) else (None, None)
        if not isinstance(action, str) or not isinstance(name, str) or not name:
            raise DocumentRefused("a step has no action or no name")
        if any(other.key == name for other in steps):
            raise DocumentRefused(f"two steps are named {name}")
        inputs, precondition = step.get("inputs") or {}, step.get("precondition") or {}
        if not isinstance(inputs, dict) or not isinstance(precondition, dict):
            raise DocumentRefused(f"the inputs of the step {name} are no object")
        steps.append(
            Step(
                name,
                action,
                substitute(inputs, parameters),
                substitute(precondition, parameters),
                preconditions,
                name,
            )
        )
    return steps


def _flatten(items: List[Any]) -> List[Any]:
    lines: List[Any] = []
    for item in items:
        lines.extend(_flatten(item) if isinstance(item, list) else [item])
    return lines


def _check_pattern(name: str, pattern: Optional[Any], value: Any) -> None:
    if not isinstance(pattern, str) or not pattern:
        return
    texts = value if isinstance(value, list) else [value]
    try:
        matcher = re.compile(pattern)
    except (re.error, OverflowError) as error:
        raise DocumentRefused(f"the allowedPattern of {name} is no regular expression") from error
    for text in texts:
        # The value is not quoted: it may be a secret.
        if not matcher.search(text if isinstance(text, str) else json.dumps(text)):
            raise DocumentRefused(f"the value of the parameter {name} does not match its allowedPattern")
