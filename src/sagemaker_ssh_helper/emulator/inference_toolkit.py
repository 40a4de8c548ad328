"""
What SageMaker's images do to serve a model that brings its code: a model server around the user's functions.

A program for a node, standard library only. It finds everything in its environment:

* ``SAGEMAKER_PROGRAM``: the script, in ``code/`` of the model's folder or in ``SAGEMAKER_CODE_DIR``;
* ``SAGEMAKER_BIND_TO_PORT``: where it answers, on the loopback address;
* ``SAGEMAKER_MULTI_MODEL=true``: models are loaded and unloaded by ``/models``, each with its own script.

Without ``SAGEMAKER_PROGRAM`` it is the server of the images for large models: ``serving.properties`` in the
model's folder, or in the only folder there, names a script whose ``handle`` gets each request.

Conventions of those images, public in their documentation: ``GET /ping``, ``POST /invocations``,
``POST /models``, ``POST /models/NAME/invoke``; ``model_fn``, ``input_fn``, ``predict_fn``, ``output_fn`` or
``transform_fn`` in the script; ``Input`` and ``Output`` of ``djl_python``.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import sys
import threading
import traceback
import types
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

TEXT_TYPES = ("application/json", "text/csv")
"""Bodies of these types reach the script as text."""

NUMPY_TYPE = "application/x-npy"

DEFAULT_TYPE = "application/json"

_PROPERTIES = "serving.properties"


class Model:
    """One loaded model. Raises whatever the script raises when it is loaded."""

    def __init__(self, folder: Path, code: Path, program: str) -> None:
        self._script = _load(code, program)
        load: Callable[[str], Any] | None = getattr(self._script, "model_fn", None)
        self._model = load(str(folder)) if load is not None else None

    def invoke(self, body: bytes, content_type: str, accept: str) -> tuple[bytes, str]:
        """The answer and its type. Raises whatever the script raises."""
        data: Any = body.decode() if content_type.partition(";")[0] in TEXT_TYPES else body
        transform = getattr(self._script, "transform_fn", None)
        if transform is not None:
            answer = transform(self._model, data, content_type, accept)
        else:
            read = getattr(self._script, "input_fn", _default_input)
            write = getattr(self._script, "output_fn", _default_output)
            answer = write(self._script.predict_fn(read(data, content_type), self._model), accept)
        if isinstance(answer, tuple):
            answer, accept = answer
        return answer.encode() if isinstance(answer, str) else bytes(answer), accept


class Input:
    """A request, as ``djl_python`` gives it to ``handle``; an empty one says: load the model."""

    def __init__(self, body: bytes = b"", content_type: str = "") -> None:
        self._body = body
        self._properties = {"Content-Type": content_type}

    def is_empty(self) -> bool:
        return not self._body

    def get_as_bytes(self) -> bytes:
        return self._body

    def get_as_string(self) -> str:
        return self._body.decode()

    def get_as_json(self) -> Any:
        return json.loads(self._body)

    def get_properties(self) -> dict[str, str]:
        return self._properties


class Output:
    """The answer of ``handle``; its parts are sent one after the other."""

    def __init__(self, code: int = 200, message: str = "OK") -> None:
        self.code = code
        self.message = message
        self.properties: dict[str, str] = {}
        self.body = b""

    def add(self, value: str | bytes) -> Output:
        self.body += value.encode() if isinstance(value, str) else value
        return self

    def add_as_json(self, value: Any) -> Output:
        self.properties.setdefault("Content-Type", "application/json")
        return self.add(json.dumps(value))

    def add_property(self, key: str, value: str) -> Output:
        self.properties[key] = value
        return self


class LargeModel:
    """A model with ``serving.properties``. Raises whatever its script raises when it is loaded."""

    def __init__(self, properties: Path) -> None:
        lines = [
            line.partition("=")
            for line in properties.read_text(encoding="utf-8", errors="replace").splitlines()
            if "=" in line
        ]
        options = {name.strip(): value.strip() for name, _, value in lines if not name.startswith("#")}
        djl_python = types.ModuleType("djl_python")
        vars(djl_python).update(Input=Input, Output=Output)
        sys.modules.setdefault("djl_python", djl_python)
        self._script = _load(properties.parent, options.get("option.entryPoint", "model.py"))
        self._script.handle(Input())

    def invoke(self, body: bytes, content_type: str, accept: str) -> tuple[bytes, str]:
        """The answer and its type. Raises whatever the script raises, RuntimeError for its own failure."""
        answer = self._script.handle(Input(body, content_type))
        if answer.code >= 300:
            raise RuntimeError(f"{answer.code} {answer.message}")
        return answer.body, answer.properties.get("Content-Type", accept)


def _load(code: Path, program: str) -> Any:
    """The script as a module, which may import what lies beside it."""
    for path in (str(code), str(code / "lib")):
        if path not in sys.path:
            sys.path.insert(0, path)
    spec = importlib.util.spec_from_file_location(f"sagemaker_model_{abs(hash(str(code)))}", code / program)
    if spec is None or spec.loader is None:
        raise ImportError(f"{program} is no Python script")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def serving_properties(folder: Path) -> Path | None:
    """The file that makes a model's folder one for the images of large models."""
    return next((path for path in (*folder.glob(_PROPERTIES), *folder.glob(f"*/{_PROPERTIES}"))), None)


def _default_input(data: Any, content_type: str) -> Any:
    kind = content_type.partition(";")[0]
    if kind == NUMPY_TYPE:
        return _numpy().load(io.BytesIO(data))
    return json.loads(data) if kind == "application/json" else data


def _default_output(prediction: Any, accept: str) -> Any:
    if accept.partition(";")[0] == NUMPY_TYPE:
        numpy, buffer = _numpy(), io.BytesIO()
        numpy.save(buffer, numpy.asarray(prediction))
        return buffer.getvalue()
    if isinstance(prediction, (str, bytes)):
        return prediction
    # An array, and what an array holds.
    return json.dumps(prediction, default=lambda value: value.tolist())


def _numpy() -> Any:
    """NumPy, where the model has it. Raises ImportError."""
    return importlib.import_module("numpy")


class Handler(BaseHTTPRequestHandler):
    """Answers SageMaker's requests."""

    protocol_version = "HTTP/1.1"
    program: str
    models: dict[str, Model | LargeModel]
    """By name; a server of one model calls it the empty name."""
    loading: threading.Lock

    def do_GET(self) -> None:
        if self.path == "/ping":
            self._answer(200, b"")
        else:
            self._answer(404, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if self.path == "/invocations":
                self._invoke(self.models[""], body)
            elif self.path == "/models":
                self._load(json.loads(body))
            else:
                name = unquote(self.path.removeprefix("/models/").removesuffix("/invoke"))
                if name not in self.models:
                    self._answer(404, b"the model is not loaded")
                else:
                    self._invoke(self.models[name], body)
        except Exception as error:
            traceback.print_exc()
            self._answer(500, f"{type(error).__name__}: {error}".encode())

    def do_DELETE(self) -> None:
        found = self.models.pop(unquote(self.path.removeprefix("/models/")), None)
        self._answer(404 if found is None else 200, b"")

    def _load(self, asked: dict[str, str]) -> None:
        name, folder = asked["model_name"], Path(asked["url"])
        with self.loading:
            if name in self.models:
                self._answer(409, b"the model is loaded")
                return
            self.models[name] = Model(folder, _code(folder), self.program)
        self._answer(200, b"")

    def _invoke(self, model: Model | LargeModel, body: bytes) -> None:
        content_type = self.headers.get("Content-Type", DEFAULT_TYPE)
        accept = self.headers.get("Accept", DEFAULT_TYPE)
        answer, answer_type = model.invoke(body, content_type, DEFAULT_TYPE if accept == "*/*" else accept)
        self._answer(200, answer, answer_type)

    def _answer(self, status: int, body: bytes, content_type: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        if self.path != "/ping":
            print(format % arguments, flush=True)


def _code(folder: Path) -> Path:
    own = folder / "code"
    shared = os.environ.get("SAGEMAKER_CODE_DIR")
    return Path(shared) if shared and not own.is_dir() else own


def main() -> None:
    """The program. Ends with the server; raises what the script raises while it is loaded."""
    program = os.environ.get("SAGEMAKER_PROGRAM", "")
    models: dict[str, Model | LargeModel] = {}
    folder = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")) / "model"
    if not program:
        properties = serving_properties(folder)
        assert properties is not None, "the cloud has seen it"
        models[""] = LargeModel(properties)
    elif os.environ.get("SAGEMAKER_MULTI_MODEL", "").lower() != "true":
        models[""] = Model(folder, _code(folder), program)
    handler = type(
        "OneHandler", (Handler,), {"program": program, "models": models, "loading": threading.Lock()}
    )
    port = int(os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080"))
    ThreadingHTTPServer(("127.0.0.1", port), handler).serve_forever()


if __name__ == "__main__":
    main()
