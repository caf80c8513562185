"""Tests with other people's clients run where `pip install -e .[clients]` has put these."""

from __future__ import annotations

from importlib.util import find_spec

CLIENTS = ("tritonclient", "kserve", "grpc", "grpc_tools", "schemathesis", "openapi_spec_validator")

collect_ignore = (
    ["test_clients.py", "test_grpc.py", "test_openapi.py"]
    if any(find_spec(package) is None for package in CLIENTS)
    else []
)
