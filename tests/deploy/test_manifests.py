"""The manifests against Kubernetes' own schemas, strictly: an unknown field is an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from client.server import REPOSITORY

KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
VERSIONS = ("1.29", "1.34")
KUSTOMIZATION = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
MANIFESTS = [KUBERNETES / name for name in KUSTOMIZATION["resources"]]


def check(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_is_valid(path: Path, version: str) -> None:
    check(yaml.safe_load(path.read_text()), version)


def test_every_manifest_is_listed() -> None:
    assert sorted(MANIFESTS) == sorted(
        set(KUBERNETES.glob("*.yaml")) - {KUBERNETES / "kustomization.yaml"}
    )


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("periodSeconds: 15", "periodSecond: 15"), ("containerPort: 8080", "containerPort: http")],
    ids=["unknown field", "wrong type"],
)
def test_a_broken_manifest_is_rejected(right: str, wrong: str) -> None:
    text = (KUBERNETES / "deployment.yaml").read_text()
    assert text.count(right) == 1
    with pytest.raises(kubernetes_validate.ValidationError):
        check(yaml.safe_load(text.replace(right, wrong)), VERSIONS[-1])


def test_the_manifests_agree_with_each_other() -> None:
    parts = {path.stem: yaml.safe_load(path.read_text()) for path in MANIFESTS}
    pod = parts["deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert parts["deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert parts["service"]["spec"]["selector"] == labels
    assert parts["disruption"]["spec"]["selector"]["matchLabels"] == labels
    assert parts["network"]["spec"]["podSelector"]["matchLabels"] == labels
    target = parts["autoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (
        "Deployment",
        parts["deployment"]["metadata"]["name"],
    )
    names = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in parts["service"]["spec"]["ports"]} <= names


def test_the_container_file_copies_only_what_exists() -> None:
    text = (REPOSITORY / "deploy" / "Containerfile").read_text()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            if not source.startswith("model_store/"):  # `make archive` builds it
                assert (REPOSITORY / source).exists(), source
    assert re.search(r"^USER 10001$", text, re.MULTILINE)
