"""The Helm chart renders what Kubernetes takes and Framegate understands, and no secret."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from framegate.cli.main import parser
from framegate.pipeline.config.config import read_config
from framegate.pipeline.contracts import keys
from framegate.pipeline.run.slot import HAND_OVER_S
from framegate.pipeline.run.supervisor import DRAIN_PATIENCE_S
from framegate.pipeline.system.ports import HTTP_DEFAULT
from tests.support.helm import CHART, asked

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"needs {package}")
    for module, package in (
        ("helm_python", "helm-python-sdk"),
        ("kubernetes_validate", "kubernetes-validate"),
    )
]

ROOT = CHART.parents[2]
OLDEST, NEWEST = "1.29", "1.37"  # of Kubernetes: the chart's kubeVersion, and the newest schemas
LEAST: Final[dict[str, Any]] = {
    "image": {"repository": "registry.example/framegate"},
    "store": {"secret": "framegate-store"},
    "slots": ["box1"],
}
FULL: Final[dict[str, Any]] = {
    "image": {"repository": "registry.example/framegate", "tag": "7", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "store": {"secret": "framegate-store", "key": "place"},
    "sourcesSecret": "framegate-sources",
    "fleetSecret": {"secret": "framegate-fleet", "key": "word"},
    "http": {"tokenSecret": "framegate-http", "tokenKey": "word", "scheme": "HTTPS"},
    "slots": ["box1", "box_2", "box3"],
    "pipeline": '[stages.detect]\nclasses = ["person"]\n\n[store]\ntls_ca = "/ca/ca.pem"\n',
    "data": {"storageClass": "local-path", "size": "100Gi"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "cameras", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "podAnnotations": {"team": "video"},
    "extraVolumes": [{"name": "ca", "secret": {"secretName": "store-ca"}}],
    "extraMounts": [{"name": "ca", "mountPath": "/ca", "readOnly": True}],
    "heavy": {
        "replicas": 1,
        "precision": "int8",
        "nodeSelector": {"size": "large"},
        "tolerations": [{"key": "large", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "keda": {"enabled": True, "tls": True},
    },
}
PASSWORD = "open-sesame"
FAULTY: Final[dict[str, tuple[dict[str, Any], list[str]]]] = {
    "nothing": ({}, ["image.repository: no image", "store.secret: no store", "slots: no slot"]),
    "unknown": (LEAST | {"slot": ["box1"]}, ["additional properties 'slot' not allowed"]),
    "url": (
        LEAST | {"store": {"url": f"redis://u:{PASSWORD}@store.example"}},
        ["at '/store': additional properties 'url' not allowed"],
    ),
    "name": (LEAST | {"slots": ["Box 1"]}, ["at '/slots/0': 'Box 1' does not match pattern"]),
    "twice": (LEAST | {"slots": ["box1", "box1"]}, ["at '/slots': items at 0 and 1 are equal"]),
    "hurry": (
        LEAST | {"terminationGracePeriodSeconds": 5},
        ["at '/terminationGracePeriodSeconds': minimum: got 5, want 30"],
    ),
    "password": (
        LEAST | {"pipeline": f'[store]\nurl = "redis://u:{PASSWORD}@store.example"\n'},
        ["pipeline: has a URL with a password", "sourcesSecret"],
    ),
    "recordings": (
        LEAST | {"pipeline": "[record]\nsources = true\n"},
        ["pipeline: [record] has no bytes", "larger than data.size, 20Gi"],
    ),
    "no worker": (
        LEAST | {"heavy": {"keda": {"enabled": True}}},
        ["heavy.replicas: must be at least 1 with heavy.keda, got 0"],
    ),
    "many workers": (
        LEAST | {"heavy": {"replicas": 9, "keda": {"enabled": True}}},
        ["heavy.keda.maxReplicas: must be at least heavy.replicas, 9, got 4"],
    ),
}
WORDS: Final = LEAST | {"slots": ["on", "null", "true"], "data": {"storageClass": "local-path"}}
MANY = LEAST | {"slots": [f"box{number}" for number in range(800)]}
RENDERED: Final = {"least": LEAST, "full": FULL, "words": WORDS}


@cache
def answers() -> dict[str, Any]:
    """What Helm says of all values of this file, by their names."""
    values = RENDERED | {"many": MANY} | {name: given for name, (given, _) in FAULTY.items()}
    return dict(asked(values))


def manifests(name: str, kind: str = "") -> list[dict[str, Any]]:
    """The manifests of these values, of one kind or of all."""
    texts = [text for file, text in answers()[name]["files"].items() if file.endswith(".yaml")]
    found = [one for text in texts for one in yaml.load_all(text, yaml.CSafeLoader)]
    return [one for one in found if one is not None and kind in ("", one["kind"])]


def slots(name: str) -> list[dict[str, Any]]:
    """The Deployments of slots."""
    return [one for one in manifests(name, "Deployment") if "slot" in container(one)["name"]]


def pod(deployment: dict[str, Any]) -> dict[str, Any]:
    return dict(deployment["spec"]["template"]["spec"])


def container(deployment: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod(deployment)["containers"]
    return dict(only)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", RENDERED)
def test_each_manifest_is_one_of_this_version_of_kubernetes(name: str, version: str) -> None:
    import kubernetes_validate

    own = [one for one in manifests(name) if "keda.sh" not in one["apiVersion"]]
    assert {one["kind"] for one in own} >= {"ConfigMap", "Deployment", "Service"}
    for manifest in own:
        assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_the_check_of_schemas_finds_a_misspelt_key() -> None:
    import kubernetes_validate

    (slot,) = slots("least")
    slot["spec"]["template"]["spec"]["hostname_"] = "box1"
    with pytest.raises(kubernetes_validate.ValidationError, match="hostname_"):
        kubernetes_validate.validate(slot, OLDEST, strict=True)


@pytest.mark.parametrize("name", RENDERED)
def test_helm_lint_has_nothing_against_it_but_that_it_has_no_icon(name: str) -> None:
    lint = answers()[name]["lint"]
    assert lint["errors"] == []
    assert [one["error"] for one in lint["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_of_the_values_is_named_with_what_to_do(name: str) -> None:
    words = FAULTY[name][1]
    assert [word for word in words if word not in answers()[name]["fault"]] == []


def test_no_message_and_no_manifest_has_a_secret() -> None:
    assert [fault for name in FAULTY if PASSWORD in (fault := answers()[name]["fault"])] == []
    for manifest in manifests("full"):
        assert manifest["kind"] != "Secret"
    variables = {one["name"]: one for one in container(slots("full")[0])["env"]}
    assert {name: one["valueFrom"]["secretKeyRef"] for name, one in variables.items()} == {
        "FRAMEGATE_STORE": {"name": "framegate-store", "key": "place"},
        "FRAMEGATE_FLEET_SECRET": {"name": "framegate-fleet", "key": "word"},
        "FRAMEGATE_HTTP_TOKEN": {"name": "framegate-http", "key": "word"},
    }
    assert container(slots("full")[0])["envFrom"] == [{"secretRef": {"name": "framegate-sources"}}]


@pytest.mark.parametrize("name", RENDERED)
def test_framegate_takes_the_command_lines_and_the_configuration(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for slot, deployment in zip(RENDERED[name]["slots"], slots(name), strict=True):
        parsed = parser().parse_args(container(deployment)["args"])
        assert (parsed.slot, parsed.store) == (slot, "env:FRAMEGATE_STORE")
        assert (parsed.fleet_secret is not None) == ("fleetSecret" in RENDERED[name])
        assert parsed.http == "0.0.0.0:" + HTTP_DEFAULT.rpartition(":")[2]
    (config,) = manifests(name, "ConfigMap")
    ca = tmp_path / "ca.pem"
    ca.touch()
    monkeypatch.setenv("FRAMEGATE_STORE", "rediss://store.example")
    text = config["data"]["pipeline.toml"].replace("/ca/ca.pem", str(ca))
    store = {"store": {"url_env": "FRAMEGATE_STORE"}}
    assert read_config("pipeline.toml", text, store).sources == {}


@pytest.mark.parametrize("name", RENDERED)
def test_each_pod_is_of_a_plain_user_who_can_write_into_volumes_only(name: str) -> None:
    for deployment in manifests(name, "Deployment"):
        assert pod(deployment)["automountServiceAccountToken"] is False
        user = pod(deployment)["securityContext"]
        assert (user["runAsNonRoot"], user["runAsUser"], user["fsGroup"]) == (True, 10001, 10001)
        assert "--uid 10001" in (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
        assert container(deployment)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        volumes = {one["name"] for one in pod(deployment)["volumes"]}
        assert {one["name"] for one in container(deployment)["volumeMounts"]} == volumes


def test_a_slot_runs_once_ends_after_its_drain_and_leaves_a_dead_node_soon() -> None:
    (slot,) = slots("least")
    assert slot["spec"]["replicas"] == 1
    assert slot["spec"]["strategy"] == {"type": "Recreate"}, "never two on purpose"
    assert pod(slot)["terminationGracePeriodSeconds"] > DRAIN_PATIENCE_S + HAND_OVER_S
    patience = {one["key"]: one["tolerationSeconds"] for one in pod(slot)["tolerations"]}
    assert patience == {
        "node.kubernetes.io/unreachable": 10,
        "node.kubernetes.io/not-ready": 10,
    }


def test_the_store_that_is_away_restarts_no_slot() -> None:
    ports = {one["name"]: one["containerPort"] for one in container(slots("least")[0])["ports"]}
    probes = {
        probe: container(slots("least")[0])[probe]["httpGet"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert probes == {
        "startupProbe": {"path": "/healthz", "port": "http", "scheme": "HTTP"},
        "livenessProbe": {"path": "/healthz", "port": "http", "scheme": "HTTP"},
        "readinessProbe": {"path": "/readyz", "port": "http", "scheme": "HTTP"},
    }
    assert {container(slots("full")[0])[probe]["httpGet"]["scheme"] for probe in probes} == {
        "HTTPS"
    }, "else no slot with a certificate is ever ready"
    assert ports == {"http": 8686}


def volumes(deployment: dict[str, Any]) -> dict[str, Any]:
    """The volumes of a pod: path in it -> volume."""
    by_name = {one["name"]: one for one in pod(deployment)["volumes"]}
    mounts = container(deployment)["volumeMounts"]
    return {one["mountPath"]: by_name[one["name"]] for one in mounts}


def test_pixels_have_shared_memory_and_data_have_a_folder_or_a_claim_that_stays() -> None:
    least, full = volumes(slots("least")[0]), volumes(slots("full")[1])
    assert least["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "512Mi"}
    assert least["/var/lib/framegate"]["emptyDir"] == {"sizeLimit": "20Gi"}
    assert manifests("least", "PersistentVolumeClaim") == []
    claim = manifests("full", "PersistentVolumeClaim")[1]
    assert full["/var/lib/framegate"]["persistentVolumeClaim"] == {
        "claimName": claim["metadata"]["name"]
    }
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"]["storageClassName"] == "local-path"


def test_a_drained_node_gives_up_one_slot_at_a_time_and_prometheus_finds_all() -> None:
    (budget,) = manifests("full", "PodDisruptionBudget")
    (service,) = manifests("full", "Service")
    wanted = service["spec"]["selector"]
    assert budget["spec"] == {"maxUnavailable": 1, "selector": {"matchLabels": wanted}}
    for deployment in slots("full"):
        assert wanted.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    (heavy,) = [one for one in manifests("full", "Deployment") if one not in slots("full")]
    assert not wanted.items() <= heavy["spec"]["template"]["metadata"]["labels"].items()


def test_heavy_workers_read_the_same_store_and_keda_counts_their_queue() -> None:
    (heavy,) = [one for one in manifests("full", "Deployment") if one not in slots("full")]
    parsed = parser().parse_args(container(heavy)["args"])
    assert (parsed.redis, parsed.precision) == ("env:FRAMEGATE_STORE", "int8")
    assert container(heavy)["env"] == container(slots("full")[0])["env"][:1]
    assert "replicas" not in heavy["spec"], "or each upgrade would undo what KEDA did"
    (scaled,) = manifests("full", "ScaledObject")
    (login,) = manifests("full", "TriggerAuthentication")
    assert scaled["spec"] == {
        "scaleTargetRef": {"name": heavy["metadata"]["name"]},
        "minReplicaCount": 1,
        "maxReplicaCount": 4,
        "triggers": [
            {
                "type": "redis-streams",
                "metadata": {"stream": keys.HEAVY_ASKS, "streamLength": "8", "enableTLS": "true"},
                "authenticationRef": {"name": login["metadata"]["name"]},
            }
        ],
    }
    assert {one["parameter"]: one["name"] for one in login["spec"]["secretTargetRef"]} == {
        "address": "framegate-store",
        "username": "framegate-store",
        "password": "framegate-store",
    }
    assert manifests("least", "ScaledObject") == []


def test_a_fleet_of_800_slots_has_a_deployment_for_each() -> None:
    found = slots("many")
    assert len({one["metadata"]["name"] for one in found}) == 800
    selectors = {json.dumps(one["spec"]["selector"], sort_keys=True) for one in found}
    assert len(selectors) == 800, "no Deployment takes the pods of another one"


def test_the_chart_is_of_this_version_and_names_the_kubernetes_that_was_checked() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chart["appVersion"] == project["version"]
    assert chart["version"].replace("-", ".") == project["version"]
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"
