"""What `infra/` says, held against the code, the Kubernetes schemas and itself. Nothing is run.

Kinds of Kubernetes are validated by its own schemas; those of Strimzi against the fields that are
used here. Kustomize is resolved by `render` below, which knows as much of it as is used.
"""

from __future__ import annotations

import copy
import json
import re
import runpy
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from opentelemetry import metrics

from spine import telemetry, trust
from spine.config import Settings
from spine.event import SignerRole
from spine.identity import is_due
from spine.issuing import BACKDATED, LIFE
from spine.supervise import PROCESSES

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
KUBERNETES = INFRA / "kubernetes"
OVERLAYS = [KUBERNETES / "overlays" / name for name in ("dev", "production")]
# What an operator applies by hand and takes away again.
BY_HAND = [KUBERNETES / name for name in ("opening", "upgrade", "auditing")]
RENDERED = [*OVERLAYS, *BY_HAND]
COMPOSE = INFRA / "compose"
DASHBOARD = COMPOSE / "grafana/dashboards/spine.json"
KUBERNETES_VERSION = "1.34"
SETTINGS = {f"SPINE_{name.upper()}" for name in Settings.model_fields}
# The role each process signs as, which its command ends in; some sign nothing.
SIGNS_AS = {name: {words[-1]} & set(SignerRole) for name, words in PROCESSES.items()}
# The ledger signs heads, which are no facts: its key speaks for no role and writes one topic.
KEYS: dict[str, set[str]] = {**SIGNS_AS, "ledger": {"ledger"}}

Manifest = dict[str, Any]


def read(path: Path) -> list[Any]:
    """Every document of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def text_files() -> list[Path]:
    return [path for path in sorted(INFRA.rglob("*")) if path.is_file() and path.suffix != ".pyc"]


# Kustomize, as far as it is used here

KNOWN = {"apiVersion", "kind", "namespace", "resources", "patches", "labels"}
CLUSTER_WIDE = {"Namespace"}


def merged(old: Any, new: Any) -> Any:
    """A strategic merge: maps by key, lists of named things by name, all else replaced."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {
            key: merged(old.get(key), new[key]) if key in new else old[key]
            for key in (*old, *(k for k in new if k not in old))
        }
    if isinstance(old, list) and isinstance(new, list) and all("name" in item for item in new):
        named = {item["name"]: item for item in old}
        for item in new:
            named[item["name"]] = merged(named.get(item["name"]), item)
        return list(named.values())
    return new


def replaced(manifest: Manifest, operation: dict[str, Any]) -> None:
    """A JSON patch that replaces what is there."""
    assert operation["op"] == "replace"
    *way, last = operation["path"].strip("/").split("/")
    place: Any = manifest
    for part in way:
        place = place[int(part) if isinstance(place, list) else part]
    assert last in place, operation["path"]
    place[last] = operation["value"]


def matches(manifest: Manifest, target: dict[str, str]) -> bool:
    metadata = manifest["metadata"]
    return all(
        value == (manifest["kind"] if key == "kind" else metadata[key])
        for key, value in target.items()
    )


def patched(manifests: list[Manifest], patch: dict[str, Any], folder: Path) -> None:
    """Apply one entry of `patches`; what it is for must be there."""
    if "path" in patch:
        (body,) = read(folder / patch["path"])
        target = {"kind": body["kind"], "name": body["metadata"]["name"]}
    else:
        body, target = yaml.safe_load(patch["patch"]), patch["target"]
    found = [m for m in manifests if matches(m, target)]
    assert found, f"{folder.name}: no {target} to patch"
    for manifest in found:
        if isinstance(body, list):
            for operation in body:
                replaced(manifest, operation)
        else:
            manifest.update(merged(manifest, body))


def render(folder: Path) -> list[Manifest]:
    """What `kubectl kustomize` would print, but for the common labels."""
    (kustomization,) = read(folder / "kustomization.yaml")
    assert set(kustomization) <= KNOWN
    manifests: list[Manifest] = []
    for name in kustomization["resources"]:
        path = (folder / name).resolve()
        assert path.exists(), f"{folder.name}: {name}"
        manifests += render(path) if path.is_dir() else copy.deepcopy(read(path))
    for patch in kustomization.get("patches", ()):
        patched(manifests, patch, folder)
    if namespace := kustomization.get("namespace"):
        for manifest in manifests:
            if manifest["kind"] not in CLUSTER_WIDE:
                manifest["metadata"]["namespace"] = namespace
    return manifests


@cache
def everything(folder: Path) -> tuple[Manifest, ...]:
    """One rendering, with what is applied by hand beside it."""
    return (*render(folder), *(m for each in BY_HAND for m in render(each) if each != folder))


def of_kind(folder: Path, kind: str) -> list[Manifest]:
    return [m for m in everything(folder) if m["kind"] == kind]


def pods(folder: Path) -> Iterator[tuple[str, dict[str, str], Manifest]]:
    """Name, labels and spec of every pod."""
    for m in of_kind(folder, "Pod"):
        yield m["metadata"]["name"], m["metadata"]["labels"], m["spec"]
    for m in (*of_kind(folder, "StatefulSet"), *of_kind(folder, "Job")):
        template = m["spec"]["template"]
        yield m["metadata"]["name"], template["metadata"]["labels"], template["spec"]


def containers(spec: Manifest) -> list[Manifest]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


overlays = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)


def test_every_manifest_belongs_to_a_kustomization() -> None:
    used = set()
    for kustomization in KUBERNETES.rglob("kustomization.yaml"):
        (content,) = read(kustomization)
        named = [
            *content["resources"],
            *(p["path"] for p in content.get("patches", ()) if "path" in p),
        ]
        used |= {kustomization, *((kustomization.parent / name).resolve() for name in named)}
    assert set(KUBERNETES.rglob("*.yaml")) == {p for p in used if p.is_file()}


# The schemas of Kubernetes and of Strimzi


@pytest.mark.parametrize("folder", RENDERED, ids=lambda path: path.name)
def test_kinds_of_kubernetes_are_valid(folder: Path) -> None:
    checked = 0
    for manifest in render(folder):
        if not manifest["apiVersion"].startswith("kafka.strimzi.io/"):
            kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)
            checked += 1
    assert checked


def test_the_schemas_bite() -> None:
    (budget,) = of_kind(OVERLAYS[0], "PodDisruptionBudget")
    changes: tuple[Manifest, ...] = ({"maxUnavailable": []}, {"maxUnavailible": 1})
    for change in changes:
        with pytest.raises(kubernetes_validate.ValidationError):
            wrong = {**budget, "spec": {**budget["spec"], **change}}
            kubernetes_validate.validate(wrong, KUBERNETES_VERSION, strict=True)


# Each field that is used and what it holds: a type, the values it may have, a list of one shape, a
# map of fields. A field with `?` may be left out.
SIZE = re.compile(r"\d+(m|[KMGT]i)?")
RESOURCES = {"requests": {"cpu": SIZE, "memory": SIZE}, "limits": {"memory": SIZE}}
STRIMZI: dict[str, Any] = {
    "KafkaNodePool": {
        "replicas": int,
        "roles": [{"controller", "broker"}],
        "storage": {
            "type": {"jbod"},
            "volumes": [
                {
                    "id": int,
                    "type": {"persistent-claim"},
                    "size": SIZE,
                    "kraftMetadata": {"shared"},
                    "deleteClaim": bool,
                }
            ],
        },
        "resources": RESOURCES,
    },
    "Kafka": {
        "kafka": {
            "version": re.compile(r"\d+\.\d+\.\d+"),
            "rack?": {"topologyKey": str},
            "listeners": [
                {
                    "name": re.compile(r"[a-z0-9]{1,11}"),
                    "port": int,
                    "type": {"internal"},
                    "tls": bool,
                    "authentication": {"type": {"scram-sha-512"}},
                    "networkPolicyPeers": [{"podSelector": {"matchLabels": dict}}],
                }
            ],
            "authorization": {"type": {"simple"}},
            "config": dict,
        },
        "entityOperator": {"userOperator": dict},
    },
    "KafkaUser": {
        "authentication": {"type": {"scram-sha-512"}},
        "authorization": {
            "type": {"simple"},
            "acls": [
                {
                    "resource": {
                        "type": {"topic", "group"},
                        "name": str,
                        "patternType": {"literal", "prefix"},
                    },
                    "operations": [{"Read", "Write", "Create", "Describe", "DescribeConfigs"}],
                }
            ],
        },
    },
}


def misfits(value: Any, shape: Any, at: str = "") -> Iterator[str]:
    """Where a value is not of a shape."""
    match shape:
        case dict():
            wanted = {key.rstrip("?"): key for key in shape}
            given = set(value) if isinstance(value, dict) else set()
            yield from (f"{at}.{key} is unknown" for key in given - set(wanted))
            for key, spelt in wanted.items():
                if key in given:
                    yield from misfits(value[key], shape[spelt], f"{at}.{key}")
                elif spelt == key:
                    yield f"{at}.{key} is missing"
        case [each]:
            if not isinstance(value, list) or not value:
                yield f"{at} is no list"
            else:
                for number, item in enumerate(value):
                    yield from misfits(item, each, f"{at}[{number}]")
        case set():
            if value not in shape:
                yield f"{at} is {value!r}"
        case re.Pattern():
            if not shape.fullmatch(str(value)):
                yield f"{at} is {value!r}"
        case _:
            if type(value) is not shape:
                yield f"{at} is no {shape.__name__}"


@overlays
def test_kinds_of_strimzi_have_the_fields_they_need(overlay: Path) -> None:
    found = [m for m in everything(overlay) if m["apiVersion"].startswith("kafka.strimzi.io/")]
    assert {m["kind"] for m in found} == set(STRIMZI)
    for manifest in found:
        assert manifest["apiVersion"] == "kafka.strimzi.io/v1"
        name = manifest["metadata"]["name"]
        assert list(misfits(manifest["spec"], STRIMZI[manifest["kind"]], name)) == []
        if manifest["kind"] != "Kafka":
            assert manifest["metadata"]["labels"]["strimzi.io/cluster"] == "energyos"


def test_the_model_of_strimzi_bites() -> None:
    (kafka,) = of_kind(OVERLAYS[0], "Kafka")
    wrong = copy.deepcopy(kafka["spec"])
    wrong["kafka"]["listeners"][0] |= {"port": "9093", "tls ": True}
    wrong["kafka"]["authorization"]["type"] = "none"
    del wrong["entityOperator"]
    assert len(list(misfits(wrong, STRIMZI["Kafka"]))) == 4


@overlays
def test_topics_have_the_copies_the_settings_ask_for(overlay: Path) -> None:
    """And nothing but `spine topics create` makes topics."""
    (kafka,) = of_kind(overlay, "Kafka")
    config, settings = kafka["spec"]["kafka"]["config"], shared_settings(overlay)
    brokers = sum(
        pool["spec"]["replicas"]
        for pool in of_kind(overlay, "KafkaNodePool")
        if "broker" in pool["spec"]["roles"]
    )
    copies, in_sync = settings["SPINE_REPLICATION_FACTOR"], settings["SPINE_MIN_INSYNC_REPLICAS"]
    assert str(config["default.replication.factor"]) == copies
    assert str(config["min.insync.replicas"]) == in_sync
    assert brokers >= int(copies)
    assert config["auto.create.topics.enable"] is False
    assert "topicOperator" not in kafka["spec"]["entityOperator"]
    assert of_kind(overlay, "KafkaTopic") == []
    (listener,) = kafka["spec"]["kafka"]["listeners"]
    host = f"{kafka['metadata']['name']}-kafka-bootstrap:{listener['port']}"
    assert settings["SPINE_KAFKA_BOOTSTRAP"] == host


@overlays
def test_a_broker_lets_a_process_write_what_its_key_may_write(overlay: Path) -> None:
    written: dict[str, set[str]] = {}
    for user in of_kind(overlay, "KafkaUser"):
        acls = user["spec"]["authorization"]["acls"]
        topics = [a["resource"]["name"] for a in acls if "Write" in a["operations"]]
        written[user["metadata"]["name"]] = set(topics)
    assert written.pop("spine-opening") == written.pop("spine-upgrade") == {"*"}
    assert written.pop("spine-auditing") == set()
    assert written == {
        f"spine-{process}": {topic for (topic, _), may in trust.MAY_WRITE.items() if signs & may}
        for process, signs in SIGNS_AS.items()
    } | {"spine-ledger": {trust.CHECKPOINTS_TOPIC}}


@overlays
def test_who_may_write_every_topic_comes_and_goes_with_what_is_applied_by_hand(
    overlay: Path,
) -> None:
    """Or each later `kubectl apply -k` of an overlay would bring it back."""

    def may_write_all(folder: Path) -> set[str]:
        users = (m for m in render(folder) if m["kind"] == "KafkaUser")
        return {
            user["metadata"]["name"]
            for user in users
            for acl in user["spec"]["authorization"]["acls"]
            if "Write" in acl["operations"] and acl["resource"]["name"] == "*"
        }

    assert may_write_all(overlay) == set()
    found = {folder.name: may_write_all(folder) for folder in BY_HAND}
    assert found == {"opening": {"spine-opening"}, "upgrade": {"spine-upgrade"}, "auditing": set()}


# Settings, processes, probes


def shared_settings(overlay: Path) -> dict[str, str]:
    (found,) = of_kind(overlay, "ConfigMap")
    data: dict[str, str] = found["data"]
    return data


def test_every_setting_that_is_named_exists() -> None:
    for path in text_files():
        named = set(re.findall(r"\bSPINE_[A-Z0-9_]+\b", path.read_text()))
        assert named <= SETTINGS, path.name


@overlays
def test_the_settings_of_every_pod_hold(overlay: Path, tmp_path: Path) -> None:
    """Put together as the process will see them, with stand-ins for what only a cluster has."""
    authority = tmp_path / "ca.crt"
    authority.touch()
    for _, _, spec in pods(overlay):
        for container in containers(spec):
            if "envFrom" not in container:
                continue
            values = dict(shared_settings(overlay))
            assert values["SPINE_KAFKA_SSL_CAFILE"] == "/etc/spine/kafka/ca.crt"
            values["SPINE_KAFKA_SSL_CAFILE"] = str(authority)
            for entry in container["env"]:
                stand_in = "0" * 64 if entry["name"] == "SPINE_LOG_ID" else "stand-in"
                values[entry["name"]] = entry.get("value", stand_in)
            Settings.model_validate(
                {k.removeprefix("SPINE_").lower(): v for k, v in values.items()}
            )
            assert values["SPINE_DATA_DIR"] in {m["mountPath"] for m in container["volumeMounts"]}


def test_the_settings_of_compose_hold() -> None:
    for service in ours().values():
        values = service["environment"]
        Settings.model_validate({k.removeprefix("SPINE_").lower(): v for k, v in values.items()})


@overlays
def test_every_process_runs_once_and_is_asked_whether_it_serves(overlay: Path) -> None:
    ports = shared_settings(overlay)
    ran = {}
    for name, _, spec in pods(overlay):
        for container in spec["containers"]:
            if name in {f"spine-{by_hand.name}" for by_hand in BY_HAND}:
                continue
            ran[container["name"]] = tuple(container["args"])
            asked = {"exec": {"command": ["spine", "health", container["name"]]}}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert container[probe].items() >= asked.items()
            (port,) = container["ports"]
            assert str(port["containerPort"]) == ports[f"SPINE_{container['name'].upper()}_PORT"]
    assert ran == PROCESSES
    replicas = {
        m["metadata"]["name"]: m["spec"]["replicas"] for m in of_kind(overlay, "StatefulSet")
    }
    assert replicas.pop("spine-dsi") == 2
    assert set(replicas.values()) == {1}, "of a coordinator there is one"


@overlays
def test_every_dsi_pod_is_a_member_of_its_own_and_knows_the_others(overlay: Path) -> None:
    (pod,) = [m for m in of_kind(overlay, "StatefulSet") if m["metadata"]["name"] == "spine-dsi"]
    settings = shared_settings(overlay)
    for container in pod["spec"]["template"]["spec"]["containers"]:
        (member,) = [e for e in container["env"] if e["name"] == "SPINE_MEMBER"]
        ordinal = member["valueFrom"]["fieldRef"]["fieldPath"]
        assert ordinal == "metadata.labels['apps.kubernetes.io/pod-index']"
        (port,) = container["ports"]
        hosts = [
            f"spine-dsi-{n}.{pod['spec']['serviceName']}" for n in range(pod["spec"]["replicas"])
        ]
        peers = settings[f"SPINE_{container['name'].upper()}_PEERS"].split(",")
        assert peers == [f"{host}:{port['containerPort']}" for host in hosts]


@overlays
def test_callers_of_the_dsi_are_sent_to_ready_pods_and_peers_to_all(overlay: Path) -> None:
    services = {m["metadata"]["name"]: m["spec"] for m in of_kind(overlay, "Service")}
    peers, callers = services["spine-dsi"], services["spine-dsi-callers"]
    assert callers["selector"] == peers["selector"]
    assert peers["publishNotReadyAddresses"] is True
    assert "publishNotReadyAddresses" not in callers
    assert [port["targetPort"] for port in callers["ports"]] == ["grpc-dsi"]


def test_metering_has_the_disk_that_publishing_aggregates_asks_for() -> None:
    def disk(folder: Path) -> dict[str, int]:
        return {
            m["metadata"]["name"]: int(
                m["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"][
                    "storage"
                ].removesuffix("Gi")
            )
            for m in render(folder)
            if m["kind"] == "StatefulSet"
        }

    production = disk(KUBERNETES / "overlays/production")
    assert production["spine-metering"] >= production["spine-dsi"]
    naive = disk(KUBERNETES / "base")
    assert naive["spine-metering"] < naive["spine-dsi"], "the base is for trying out"


def test_compose_runs_every_process_too() -> None:
    commands = {name: s.get("command") for name, s in ours().items()}
    assert {name: tuple(commands[name]) for name in PROCESSES} == PROCESSES
    assert set(commands) - set(PROCESSES) == {"topics", "cli", "drift"}
    for name in PROCESSES:
        assert ours()[name]["healthcheck"]["test"] == ["CMD", "spine", "health", name]
        assert ours()[name]["environment"]["SPINE_LISTEN_HOST"] == name == ours()[name]["hostname"]


# Who holds what, and who reaches whom


@overlays
def test_pods_are_locked_down(overlay: Path) -> None:
    for name, _, spec in pods(overlay):
        assert spec["enableServiceLinks"] is False, name  # a Service spine-dsi sets SPINE_DSI_PORT
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in containers(spec):
            locked = container["securityContext"]
            assert locked["readOnlyRootFilesystem"] and not locked["allowPrivilegeEscalation"]
            assert locked["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


@overlays
def test_what_is_mounted_and_referred_to_is_there(overlay: Path) -> None:
    accounts = {m["metadata"]["name"] for m in of_kind(overlay, "ServiceAccount")}
    services = {m["metadata"]["name"]: m["spec"] for m in of_kind(overlay, "Service")}
    users = {m["metadata"]["name"] for m in of_kind(overlay, "KafkaUser")}
    claims = {m["metadata"]["name"] for m in of_kind(overlay, "PersistentVolumeClaim")}
    readme = (INFRA / "README.md").read_text()
    for m in of_kind(overlay, "StatefulSet"):
        template = m["spec"]["template"]
        assert template["spec"]["serviceAccountName"] in accounts
        labels = template["metadata"]["labels"]
        assert m["spec"]["selector"]["matchLabels"].items() <= labels.items()
        service = services[m["spec"]["serviceName"]]
        assert service["selector"].items() <= labels.items()
        open_ports = {p["name"] for c in template["spec"]["containers"] for p in c["ports"]}
        assert {p["targetPort"] for p in service["ports"]} <= open_ports
        claims |= {claim["metadata"]["name"] for claim in m["spec"]["volumeClaimTemplates"]}
    for name, _, spec in pods(overlay):
        volumes = {v["name"]: v for v in spec["volumes"]}
        for container in containers(spec):
            for mount in container["volumeMounts"]:
                assert mount["name"] in volumes or mount["name"] in claims, name
            for secret in (e["valueFrom"]["secretKeyRef"] for e in keyed(container)):
                assert secret["name"] in users
                assert {"name": "SPINE_KAFKA_SASL_USERNAME", "value": secret["name"]} in container[
                    "env"
                ]
        for volume in volumes.values():
            for source in (
                volume.get("secret", {}).get("secretName"),
                volume.get("configMap", {}).get("name"),
            ):
                assert source is None or f"`{source}`" in readme, source


def keyed(container: Manifest) -> list[Manifest]:
    env = container.get("env", ())
    return [e for e in env if "secretKeyRef" in e.get("valueFrom", {})]


@overlays
def test_each_process_holds_its_own_signing_key_and_no_other(overlay: Path) -> None:
    held = {}
    for name, _, spec in pods(overlay):
        names = {v["name"]: v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v}
        for container in spec["containers"]:
            mounted = {names.get(m["name"]): m["mountPath"] for m in container["volumeMounts"]}
            keys = {s: path for s, path in mounted.items() if s and s.endswith("-key")}
            held[name, container["name"]] = keys
    for name, container in (
        ("spine-opening", "wait"),
        ("spine-upgrade", "topics"),
        ("spine-auditing", "audit"),
    ):
        assert held.pop((name, container)) == {}
    assert {process: keys for (_, process), keys in held.items()} == {
        process: {f"spine-{process}-key": "/var/lib/spine/keys"} if signs else {}
        for process, signs in KEYS.items()
    }
    handed_out = re.search(r"^for process in (.+); do$", (INFRA / "README.md").read_text(), re.M)
    assert handed_out
    words = [word.partition("=") for word in handed_out[1].split()]
    keys = {process: {key or process} for process, _, key in words}
    assert keys == {process: signs for process, signs in KEYS.items() if signs}


@overlays
def test_the_dsi_and_the_readings_process_share_a_folder(overlay: Path) -> None:
    (spec,) = [spec for name, _, spec in pods(overlay) if name == "spine-dsi"]
    mounts = {
        c["name"]: [m for m in c["volumeMounts"] if m["mountPath"] == "/var/lib/spine"]
        for c in spec["containers"]
    }
    assert mounts["dsi"] == mounts["readings"] == [{"name": "data", "mountPath": "/var/lib/spine"}]


# What a policy opens, where it is not what the pod is named for.
OPENED_BY = {
    "spine-dsi-among-themselves": ("dsi", "readings"),
    "spine-quarantined-at-readings": ("readings",),
}


@overlays
def test_policies_and_the_budget_cover_every_process(overlay: Path) -> None:
    policies = {m["metadata"]["name"]: m["spec"] for m in of_kind(overlay, "NetworkPolicy")}
    closed = policies.pop("spine-closed")
    assert set(closed) == {"podSelector", "policyTypes"}
    assert sorted(closed["policyTypes"]) == ["Egress", "Ingress"]
    (budget,) = of_kind(overlay, "PodDisruptionBudget")
    for _, labels, _ in pods(overlay):
        assert closed["podSelector"]["matchLabels"].items() <= labels.items()
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for name, policy in policies.items():
        chosen = policy["podSelector"]["matchLabels"].items()
        assert any(chosen <= labels.items() for _, labels, _ in pods(overlay)), name
        for rule in policy.get("ingress", ()):
            component = policy["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            kinds = OPENED_BY.get(name, (component,))
            ports = [shared_settings(overlay)[f"SPINE_{kind.upper()}_PORT"] for kind in kinds]
            assert [str(port["port"]) for port in rule["ports"]] == ports


@overlays
def test_the_budget_leaves_out_what_is_applied_by_hand(overlay: Path) -> None:
    (budget,) = of_kind(overlay, "PodDisruptionBudget")
    (left_out,) = budget["spec"]["selector"]["matchExpressions"]
    bare = {
        (m["spec"]["template"] if m["kind"] == "Job" else m)["metadata"]["labels"][left_out["key"]]
        for folder in BY_HAND
        for m in render(folder)
        if m["kind"] in ("Job", "Pod")
    }
    assert left_out["operator"] == "NotIn" and set(left_out["values"]) == bare


def selected(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a selector takes a pod, of the operators that are used here."""
    for wanted in selector.get("matchExpressions", ()):
        assert wanted["operator"] == "In"
        if labels.get(wanted["key"]) not in wanted["values"]:
            return False
    wanted_labels: dict[str, str] = selector.get("matchLabels", {})
    return wanted_labels.items() <= labels.items()


def is_let(
    policies: list[Manifest], way: str, pod: dict[str, str], peer: dict[str, str], port: int
) -> bool:
    """Whether a policy for the pod lets it reach the peer ("egress"), or the peer it."""
    to = {"egress": "to", "ingress": "from"}[way]
    return any(
        selected(other["podSelector"], peer)
        for policy in policies
        if selected(policy["podSelector"], pod)
        for rule in policy.get(way, ())
        if port in (allowed["port"] for allowed in rule["ports"])
        for other in rule[to]
        if "podSelector" in other and "namespaceSelector" not in other
    )


# Who is asked, in which pod, and the pods that ask.
ASKED = {
    "dsi": ("dsi", {"dsi"}),
    "readings": ("dsi", {"dsi", "metering"}),
    "consumers": ("consumers", {"dsi"}),
    "governance": ("governance", {"dsi", "consumers", "metering", "assets"}),
}


@overlays
@pytest.mark.parametrize("asked", ASKED)
def test_pods_reach_whom_they_ask_and_nobody_else_does(overlay: Path, asked: str) -> None:
    components = {labels["app.kubernetes.io/component"]: labels for _, labels, _ in pods(overlay)}
    addresses = shared_settings(overlay)[f"SPINE_{asked.upper()}_PEERS"].split(",")
    ((host, port),) = {tuple(each.split(".")[-1].split(":")) for each in addresses}
    (service,) = [s for s in of_kind(overlay, "Service") if s["metadata"]["name"] == host]
    pod, askers = ASKED[asked]
    there = components[pod]
    assert selected({"matchLabels": service["spec"]["selector"]}, there)
    assert port in {str(p["port"]) for p in service["spec"]["ports"]}
    policies = [m["spec"] for m in of_kind(overlay, "NetworkPolicy")]

    def reach(policies: list[Manifest]) -> set[str]:
        return {
            name
            for name, here in components.items()
            if is_let(policies, "egress", here, there, int(port))
            and is_let(policies, "ingress", there, here, int(port))
        }

    assert reach(policies) == askers
    for way in ("egress", "ingress"):
        assert reach([policy for policy in policies if way not in policy]) == set()


# Compose


@cache
def compose() -> dict[str, Any]:
    (content,) = read(COMPOSE / "compose.yaml")
    assert isinstance(content, dict)
    return content


def ours() -> dict[str, Any]:
    """The services that run the spine's own image."""
    services: dict[str, Any] = compose()["services"]
    return {n: s for n, s in services.items() if s["image"].startswith("energyos-spine")}


def test_what_compose_refers_to_is_there() -> None:
    content = compose()
    services = content["services"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        assert set(service["networks"]) <= set(content["networks"])
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            here = (
                (COMPOSE / source).exists()
                if source.startswith(".")
                else source in content["volumes"]
            )
            assert here, volume
    brokers = [name for name in services if name.startswith("kafka-")]
    assert len(brokers) == 3
    assert len({services[b]["environment"]["KAFKA_NODE_ID"] for b in brokers}) == 3
    for service in ours().values():
        hosts = service["environment"]["SPINE_KAFKA_BOOTSTRAP"].split(",")
        assert [host.split(":")[0] for host in hosts] == brokers
        assert service["build"]["dockerfile"] == "infra/Containerfile"
    used = {volume.split(":")[0] for s in services.values() for volume in s.get("volumes", ())}
    assert {v for v in used if not v.startswith(".")} == set(content["volumes"])


def test_the_collector_goes_where_prometheus_looks() -> None:
    (collector,) = read(COMPOSE / "collector.yaml")
    for pipeline in collector["service"]["pipelines"].values():
        for part in ("receivers", "processors", "exporters"):
            assert set(pipeline[part]) <= set(collector[part])
    (prometheus,) = read(COMPOSE / "prometheus.yml")
    (scraped,) = prometheus["scrape_configs"]
    port = collector["exporters"]["prometheus"]["endpoint"].split(":")[1]
    assert scraped["static_configs"] == [{"targets": [f"collector:{port}"]}]
    assert scraped["honor_labels"] is True
    taken = collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"].split(":")[1]
    for service in ours().values():
        assert service["environment"]["SPINE_OTLP_ENDPOINT"] == f"http://collector:{taken}"


# Metrics, as Prometheus sees them

UNITS = {"ms": "milliseconds", "s": "seconds", "By": "bytes"}


def seen_by_prometheus() -> set[str]:
    """By the rule of OpenTelemetry: dots, then the unit unless it is in braces, then the kind."""
    kinds = {
        str(vars(instrument)["_name"]): instrument
        for instrument in vars(telemetry).values()
        if isinstance(instrument, metrics.Instrument)
    }
    names = set()
    for metric in telemetry.METRICS:
        parts = [metric.name.replace(".", "_")]
        if not metric.unit.startswith("{"):
            parts.append(UNITS[metric.unit])
        name = "_".join(parts)
        match kinds[metric.name]:
            case metrics.Counter():
                names.add(f"{name}_total")
            case metrics.Histogram():
                names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
            case _:
                names.add(name)
    return names


def asked_of_prometheus() -> list[str]:
    """Every expression of the dashboard and the alerts."""
    dashboard = json.loads(DASHBOARD.read_text())
    (alerts,) = read(COMPOSE / "alerts.yml")
    return [
        *(target["expr"] for panel in dashboard["panels"] for target in panel["targets"]),
        *(rule["expr"] for group in alerts["groups"] for rule in group["rules"]),
    ]


def test_every_metric_that_is_asked_for_exists_and_every_one_is_shown() -> None:
    asked = set(re.findall(r"\bspine_[a-z_]+\b", "\n".join(asked_of_prometheus())))
    assert asked == seen_by_prometheus()
    assert "spine_view_lag_milliseconds" in asked


def test_an_alert_about_events_fires_for_the_first_of_them() -> None:
    """`increase` of a series that begins at 1 is nothing: it has no sample from before."""
    (alerts,) = read(COMPOSE / "alerts.yml")
    rules = {rule["alert"]: rule["expr"] for group in alerts["groups"] for rule in group["rules"]}
    counting = {name for name, expr in rules.items() if "increase(" in expr}
    assert counting == {"RecordsQuarantined", "RecordsHeld", "LedgerAlarm", "ViewDrifted"}
    for name in counting:
        (series,) = re.findall(r"increase\((.+?)\[10m\]\)", rules[name])
        before = f"last_over_time({series}[1h] offset 10m)"
        assert f"({series} unless {before}) or increase({series}[10m])" in rules[name], name


def test_every_label_that_is_asked_for_is_documented() -> None:
    reference = (ROOT / "docs/reference.md").read_text()
    metrics_table = reference.split("## Metrics")[1].split("## Spans")[0]
    documented = set(re.findall(r"`([a-z]+)`", metrics_table)) | {"job", "le"}
    for expression in asked_of_prometheus():
        grouped = re.findall(r"by \(([^)]*)\)", expression)
        filtered = re.findall(r"[{,]\s*(\w+)=", expression)
        assert {n.strip() for names in grouped for n in names.split(",")} | set(
            filtered
        ) <= documented


def test_the_alert_of_a_certificate_comes_30_days_ahead_when_renewing_has_failed() -> None:
    (alerts,) = read(COMPOSE / "alerts.yml")
    (ends,) = [
        rule["expr"]
        for group in alerts["groups"]
        for rule in group["rules"]
        if rule["alert"] == "CertificateEnds"
    ]
    threshold = re.fullmatch(r"min by \(job\) \(spine_certificate_left_seconds\) < (\d+)", ends)
    assert threshold
    ahead = timedelta(seconds=int(threshold[1]))
    assert ahead == timedelta(days=30)
    made = datetime(2026, 1, 1, tzinfo=UTC)
    ended = made + LIFE
    assert is_due(made - BACKDATED, ended, ended - 2 * ahead)


def test_the_dashboard_is_provisioned() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    (sources,) = read(COMPOSE / "grafana/provisioning/datasources/prometheus.yaml")
    (source,) = sources["datasources"]
    panels = dashboard["panels"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert source["url"] == "http://prometheus:9090" and "prometheus" in compose()["services"]
    (providers,) = read(COMPOSE / "grafana/provisioning/dashboards/spine.yaml")
    (provider,) = providers["providers"]
    grafana = compose()["services"]["grafana"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]


# The image, tags, secrets

IMAGE = re.compile(r"(?:[a-z0-9.-]+/)*[a-z0-9-]+:v?\d+\.\d+(?:\.\d+)?(?:-[a-z]+)?")


def test_every_image_is_pinned() -> None:
    (project,) = {tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]}
    found = {service["image"] for service in compose()["services"].values()}
    for overlay in OVERLAYS:
        found |= {c["image"] for _, _, spec in pods(overlay) for c in containers(spec)}
    found |= set(re.findall(r"^FROM (\S+)", (INFRA / "Containerfile").read_text(), re.M))
    assert [image for image in found if not IMAGE.fullmatch(image)] == []
    assert {i for i in found if i.startswith("energyos-spine")} == {f"energyos-spine:{project}"}


WORTH_HIDING = re.compile(
    r"(?i)(?:password|passwd|secret|token|private_?key|credential)s?[\"']?\s*[:=]\s*[\"']?[\w+/=-]+"
)


def test_no_secret_stands_here() -> None:
    for path in text_files():
        for line in path.read_text().splitlines():
            if match := WORTH_HIDING.search(line):
                assert line.strip() == "automountServiceAccountToken: false", (path.name, match)
    for folder in RENDERED:
        assert "Secret" not in {m["kind"] for m in render(folder)}
    for written in ("SPINE_KAFKA_SASL_PASSWORD: hunter2", "POSTGRES_PASSWORD=x", "secret: 'a'"):
        assert WORTH_HIDING.search(written)


def test_the_image_has_what_runs_and_nothing_of_the_tests() -> None:
    module = runpy.run_path(str(INFRA / "runtime_requirements.py"))
    lock = (ROOT / "requirements.lock").read_text()
    kept = module["runtime"](lock, (ROOT / "pyproject.toml").read_text())
    assert {"grpcio", "faust-streaming", "rocksdict", "aiohttp"} <= set(kept)
    assert not {"pytest", "mypy", "grpcio-tools", "kubernetes-validate", "hypothesis"} & set(kept)
    assert all("--hash=sha256:" in block for block in kept.values())


def test_the_image_is_built_from_what_is_there() -> None:
    steps = (INFRA / "Containerfile").read_text()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", steps, re.M):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            allowed = (INFRA / "Containerfile.dockerignore").read_text().splitlines()
            assert f"!{source.rstrip('/')}" in allowed
    assert re.search(r"^USER 10001:10001$", steps, re.M)
    assert 'ENTRYPOINT ["spine"]' in steps
