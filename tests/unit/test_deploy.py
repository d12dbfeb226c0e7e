"""Fails when deploy/ names what the code does not have: a command, an option, a metric, a label, a file.

Nothing here needs Docker; rules are also given to promtool where it is on PATH.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click
import pytest
import yaml

from clients.connection import VARIABLES
from contracts.scenario import load_scenario
from surgeline.cli import main

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
NAME = re.compile(r"surgeline_[a-z_]+")
#: What Prometheus adds to every series, and to histograms.
ADDED = {"instance", "job", "le"}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


COMPOSE = read(ROOT / "docker-compose.yml")
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "surgeline.json").read_text(encoding="utf-8"))


# ---- what the code exports ----


def text_of(node: ast.expr, constants: dict[str, str]) -> str | None:
    """The value of a literal, or of an f-string over module constants."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [text_of(value, constants) for value in node.values]
        return None if None in parts else "".join(cast(list[str], parts))
    if isinstance(node, ast.FormattedValue):
        return text_of(node.value, constants)
    return constants.get(node.id) if isinstance(node, ast.Name) else None


def metrics_in(source: str) -> Iterator[tuple[str, set[str]]]:
    """Name and labels of every ``Counter("surgeline_...", text, labels)`` and its like."""
    tree = ast.parse(source)
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not call.args:
            continue
        name = text_of(call.args[0], constants)
        if name is None or not NAME.fullmatch(name):
            continue
        given = [*call.args[2:], *(keyword.value for keyword in call.keywords)]
        flat = [item for node in given for item in (node.elts if isinstance(node, ast.List) else [node])]
        yield plain(name), {label for node in flat if (label := text_of(node, constants)) is not None}


def plain(name: str) -> str:
    """A metric's name without what Prometheus appends by its type."""
    return re.sub(r"_(total|bucket|count|sum)$", "", name)


def exported() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for room in ("stream", "serving"):
        for file in (ROOT / room).rglob("*.py"):
            found.update(metrics_in(file.read_text(encoding="utf-8")))
    return found


EXPORTED = exported()


# ---- what deploy/ asks for ----


def rules() -> list[dict[str, Any]]:
    return [rule for group in read(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> list[tuple[str, str, str]]:
    """Where it stands, the expression, and the text that uses its labels."""
    alerts = [(r["alert"], r["expr"], " ".join(r["annotations"].values())) for r in rules()]
    shown = [(p["title"], t["expr"], t["legendFormat"]) for p in panels() for t in p["targets"]]
    return alerts + shown


@pytest.mark.parametrize(("where", "expression", "_text"), queries())
def test_every_metric_is_exported(where: str, expression: str, _text: str) -> None:
    """A renamed metric leaves an empty panel, and an alert that never fires: nobody would notice."""
    unknown = {name for name in NAME.findall(expression) if plain(name) not in EXPORTED}
    assert not unknown, f"{where}: not in the code of stream/ or serving/: {unknown}"


@pytest.mark.parametrize(("where", "expression", "_text"), queries())
def test_every_label_of_a_sum_exists(where: str, expression: str, _text: str) -> None:
    """Summing by a label that is not there gives one nameless line."""
    for labels, name in re.findall(r"sum by \(([^)]*)\) \(\s*(?:\w+\()?(surgeline_\w+)", expression):
        unknown = {label.strip() for label in labels.split(",")} - EXPORTED[plain(name)] - ADDED
        assert not unknown, f"{where}: {name} has no label {unknown}"


@pytest.mark.parametrize(("where", "expression", "text"), queries())
def test_every_label_in_a_text_survives_the_query(where: str, expression: str, text: str) -> None:
    """A legend or a message with a label that the query sums away shows a gap."""
    used = set(re.findall(r"{{\s*(?:\$labels\.)?(\w+)\s*}}", text))
    kept = re.match(r"\(*(?:sum|histogram_quantile\([\d.]+, sum)(?: by \(([^)]*)\))?", expression)
    if kept:
        have = {label.strip() for label in (kept.group(1) or "").split(",")} - {"le"}
    else:
        have = set.union(*(EXPORTED.get(plain(n), set()) for n in NAME.findall(expression)), set()) | ADDED
    have |= {"alertname"} if expression.startswith("ALERTS") else set()
    assert used <= have, f"{where}: {used - have} is not in the result of {expression}"


def test_the_collector_of_metrics_can_see_and_can_miss() -> None:
    """Literals, f-strings over a constant, labels as positions and as a list; anything else is not one."""
    source = (
        "P = 'surgeline_x'\nCounter('surgeline_a_total', 'text', 'kind')\n"
        "Gauge(f'{P}_b', 'text', labels=['topic', 'partition'])\nprint('surgeline_c')\nf('other')"
    )
    found = dict(metrics_in(source))
    assert found["surgeline_a"] == {"kind"} and found["surgeline_x_b"] == {"topic", "partition"}
    assert "surgeline_consumer_lag_records" in EXPORTED and "surgeline_nothing" not in EXPORTED


def test_the_page_on_production_knows_every_alert_and_only_real_variables() -> None:
    """Who reads it at midnight must find what rang, and what is set must be read by something."""
    page = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
    assert {rule["alert"] for rule in rules()} == set(re.findall(r"Surgeline[A-Z]\w+", page))
    packages = [file.parent for file in ROOT.glob("*/__init__.py")]
    code = "\n".join(
        file.read_text(encoding="utf-8") for package in packages for file in package.rglob("*.py")
    )
    named = set(re.findall(r"`((?:KAFKA|SURGELINE)_[A-Z_]+)`", page))
    for variable in named:
        known = variable in VARIABLES or f'"{variable}"' in code
        assert known, f"{variable} is read by nothing"
    # `..._FILE` stands beside the variable whose secret it holds.
    assert {variable.removesuffix("_FILE") for variable in VARIABLES} <= {
        n.removesuffix("_FILE") for n in named
    }


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool on PATH (Debian: apt-get install prometheus)"
)
@pytest.mark.parametrize(
    "arguments", [["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]]
)
def test_promtool_agrees(arguments: list[str]) -> None:
    run = subprocess.run(
        ["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_alert_says_what_to_do_and_has_a_case() -> None:
    """An alert without a case in alerts_test.yml may never fire, or always."""
    tested = {
        case["alertname"]
        for test in read(PROMETHEUS / "alerts_test.yml")["tests"]
        for case in test.get("alert_rule_test", ())
        if case.get("exp_alerts")
    }
    for rule in rules():
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"] and rule["annotations"]["action"]
    assert tested == {rule["alert"] for rule in rules()}


def test_what_is_no_fault_has_a_case_in_which_nothing_fires() -> None:
    """Whoever is woken by a quiet hour turns the alerts off. Each story asks for all alerts that fired."""
    silent = {
        test["name"]: [check["expr"] for check in test["promql_expr_test"]]
        for test in read(PROMETHEUS / "alerts_test.yml")["tests"]
        if "promql_expr_test" in test and not any(c["exp_samples"] for c in test["promql_expr_test"])
    }
    for story in ("quiet hour", "rebalance", "restart", "replay of an old log"):
        assert any(story in name for name in silent), story
    assert all(expr.startswith('count_over_time(ALERTS{alertstate="firing"}[') for [expr] in silent.values())


def test_prometheus_scrapes_services_of_the_stack() -> None:
    """Each target is a service, on a port that the image exposes."""
    config = read(PROMETHEUS / "prometheus.yml")
    exposed = re.findall(r"^EXPOSE (.*)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)[0].split()
    targets = [t for job in config["scrape_configs"] for s in job["static_configs"] for t in s["targets"]]
    for target in targets:
        name, _, port = target.partition(":")
        assert name in SERVICES and port in exposed
    workers = {name for name, service in OURS.items() if service["command"] == ["surgeline", "worker"]}
    assert len(workers) >= 2 and workers <= {target.partition(":")[0] for target in targets}
    assert config["rule_files"] == ["alerts.yml"]


def test_the_dashboard_s_datasource_is_provisioned() -> None:
    [source] = read(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    used = {target["datasource"]["uid"] for panel in panels() for target in panel["targets"]}
    assert used == {source["uid"]} and source["url"] == "http://prometheus:9090"
    [provider] = read(DEPLOY / "grafana" / "provisioning" / "dashboards" / "surgeline.yml")["providers"]
    mounts = " ".join(SERVICES["grafana"]["volumes"])
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}" in mounts


def test_dashboard_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells


# ---- the stack ----


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_one_that_click_accepts(name: str) -> None:
    """Parsed by the real command line, so that a renamed command or option fails here."""
    program, *arguments = OURS[name]["command"]
    assert program == "surgeline"
    command: click.Command = main
    context = click.Context(main, info_name=program)
    while isinstance(command, click.Group):
        found = command.get_command(context, arguments.pop(0))
        assert found is not None
        command = found
    command.make_context(name, arguments, parent=context)


def test_every_port_is_bound_to_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports and all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(ports), "two services want one port"


def test_every_image_is_pinned() -> None:
    images = [service["image"] for service in SERVICES.values()]
    images += re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert all(re.search(r":v?\d+\.\d+\.\d+(-[\w-]+)?$", image) for image in images), images


def test_no_secret_is_written_down() -> None:
    """A value under such a name may only come from the environment of whoever starts the stack."""
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|CREDENTIAL|_KEY$", key):
                assert re.fullmatch(r"\$\{\w+(:[-?][^}]*)?\}", str(value)), f"{name}: {key}"


def test_a_worker_has_an_id_and_a_volume_of_its_own() -> None:
    """Two workers with one id would throw each other out of the group; with one folder, of RocksDB."""
    workers = {name: s for name, s in OURS.items() if s["command"] == ["surgeline", "worker"]}
    ids = {service["environment"]["SURGELINE_WORKER_ID"] for service in workers.values()}
    homes = {v.partition(":")[0] for s in workers.values() for v in s["volumes"] if "/var/lib/surgeline" in v}
    assert len(ids) == len(homes) == len(workers) >= 2
    assert homes <= set(COMPOSE["volumes"])


def test_waiting_services_and_volumes_exist() -> None:
    for name, service in SERVICES.items():
        wanted = service.get("depends_on", {})
        for other in wanted:
            assert other in SERVICES, f"{name} waits for {other}"
            condition = wanted[other]["condition"] if isinstance(wanted, dict) else "service_started"
            if condition == "service_healthy":
                assert "test" in SERVICES[other]["healthcheck"]
            if condition == "service_completed_successfully":
                assert SERVICES[other]["restart"] == "no"
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_the_scenario_finds_the_trunk_that_train_writes() -> None:
    scenario = load_scenario(DEPLOY / "scenario.toml")
    command = OURS["train"]["command"]
    assert scenario.trunk == command[command.index("--out") + 1]


def test_the_image_runs_without_root_and_gets_what_the_package_is_built_from() -> None:
    text = (ROOT / "Dockerfile").read_text()
    last = text.rpartition("FROM ")[2]
    assert re.search(r"^USER (?!root)\w+", last, flags=re.MULTILINE) and "HEALTHCHECK" in last
    wanted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = {file.parent.name for file in ROOT.glob("*/__init__.py")}
    assert packages | {"pyproject.toml", "README.md", "LICENSE"} == wanted


def test_kafka_can_be_started_alone_without_setting_anything() -> None:
    """`docker compose up kafka` is what the error of a missing embedded broker names."""
    assert "depends_on" not in SERVICES["kafka"]
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert not re.search(r"\$\{\w+:?\?", text), "a required variable stops every docker compose command"
