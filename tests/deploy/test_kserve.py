"""The KServe manifests against the types of KServe's own package, strictly."""

from __future__ import annotations

import re
from typing import Any

import kserve.models
import kubernetes.client
import pytest
import yaml

from client.server import REPOSITORY

KSERVE = REPOSITORY / "deploy" / "kserve"
KINDS = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}
PLAIN: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": (int, float),
}


def faults(value: Any, kind: str, where: str) -> list[str]:  # noqa: PLR0911  (a kind, a return)
    """What does not fit: fields that a type lacks, and values of another type, with their place."""
    if found := re.fullmatch(r"[lL]ist\[(.+)\]", kind):
        if not isinstance(value, list):
            return [f"{where}: expected a list"]
        return [
            fault
            for index, item in enumerate(value)
            for fault in faults(item, found[1], f"{where}[{index}]")
        ]
    if found := re.fullmatch(r"dict\(str, (.+)\)|Dict\[str, (.+)\]", kind):
        if not isinstance(value, dict):
            return [f"{where}: expected a map"]
        return [
            fault
            for key, item in value.items()
            for fault in faults(item, found[1] or found[2], f"{where}.{key}")
        ]
    if kind in PLAIN:
        return [] if isinstance(value, PLAIN[kind]) else [f"{where}: expected {kind}"]
    model = getattr(kserve.models, kind, None) or getattr(kubernetes.client, kind, None)
    if model is None:  # object: any JSON
        assert kind == "object", f"{where}: no type {kind}"
        return []
    if not isinstance(value, dict):
        return [f"{where}: expected an object"]
    names = {json_name: name for name, json_name in model.attribute_map.items()}
    return [
        fault
        for key, item in value.items()
        for fault in (
            faults(item, model.openapi_types[names[key]], f"{where}.{key}")
            if key in names
            else [f"{where}.{key}: unknown field"]
        )
    ]


def load(name: str) -> tuple[dict[str, Any], str]:
    manifest: dict[str, Any] = yaml.safe_load((KSERVE / name).read_text())
    return manifest, KINDS[manifest["kind"]]


@pytest.mark.parametrize("name", ["runtime.yaml", "service.yaml"])
def test_a_manifest_fits_its_type(name: str) -> None:
    manifest, kind = load(name)
    assert faults(manifest, kind, kind) == []


def test_a_broken_manifest_is_rejected() -> None:
    manifest, kind = load("service.yaml")
    manifest["spec"]["predictor"]["minReplicas"] = "two"
    manifest["spec"]["predictor"]["model"]["modelFormats"] = {}
    assert faults(manifest, kind, "s") == [
        "s.spec.predictor.minReplicas: expected int",
        "s.spec.predictor.model.modelFormats: unknown field",
    ]


def test_the_service_names_the_runtime() -> None:
    runtime, _ = load("runtime.yaml")
    service, _ = load("service.yaml")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    formats = [offered["name"] for offered in runtime["spec"]["supportedModelFormats"]]
    assert model["modelFormat"]["name"] in formats
