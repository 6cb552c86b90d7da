"""The house rules that a machine can check: who may import whom, how long, how pure, how named."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from spine.errors import Reason

ROOT = Path(__file__).parents[1]
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60

PURE = frozenset(
    {
        "spine.accreditation",
        "spine.answer",
        "spine.catalogue",
        "spine.codefile",
        "spine.codelist",
        "spine.domain",
        "spine.errors",
        "spine.event",
        "spine.gb",
        "spine.in_force",
        "spine.murmur2",
        "spine.crowd",
        "spine.limits",
        "spine.ledger.entries",
        "spine.ledger.note",
        "spine.ledger.tree",
        "spine.merkle",
        "spine.objections",
        "spine.partition",
        "spine.policies",
        "spine.policy",
        "spine.policy_data",
        "spine.policy_data_v2",
        "spine.policy_v2",
        "spine.rows",
        "spine.trust",
        "spine.verdict",
        "spine.view",
        "spine.vocabulary",
        "spine.webhook",
    }
)
# The edge: what faces callers and people, and plugs the domains into the rest.
EDGE = (
    "spine.cli",
    "spine.__main__",
    "spine.admission",
    "spine.decoding",
    "spine.installation",
    "spine.console",
    "spine.dsi",
    "spine.ingest",
    "spine.readings_file",
    "spine.server",
    "spine.services",
)
GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$")
OF_KAFKA = (
    "spine.compressing",
    "spine.log",
    "spine.log_client",
    "spine.log_greeting",
    "spine.header_names",
    "spine.follower",
    "spine.embedded",
    "spine.jars",
)
OF_GRPC = (
    "spine.server",
    "spine.listening",
    "spine.dsi",
    "spine.services",
    "spine.ingest",
    "spine.cli",
    "spine.console",
)
# The supervisor reads nothing of it: it hands it on to the processes that it starts.
ENVIRONMENT = ("spine.config", "spine.cli", "spine.supervise")

# What a pure module may not even mention: clocks, chance, the environment, files, processes.
IMPURE_MODULES = frozenset(
    {
        "asyncio",
        "logging",
        "os",
        "pathlib",
        "random",
        "secrets",
        "socket",
        "subprocess",
        "sys",
        "threading",
        "time",
        "uuid",
    }
)
# Libraries that do nothing but compute: columns, and records that are made fast.
COMPUTING = ("numpy", "msgspec")
IMPURE_CALLS = re.compile(
    r"^(datetime\.(now|utcnow|today)|date\.today|open|print|input|.*\.(now|utcnow|today))$"
)


@dataclass(frozen=True)
class Module:
    """A module of ours and its syntax tree."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        parts = self.path.relative_to(ROOT).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def imports(self) -> frozenset[str]:
        """Every module it imports, at the top or inside a function."""
        found: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}: imports are absolute"
                found.add(str(node.module))
                if node.module in ("spine", "domains"):
                    found.update(f"{node.module}.{alias.name}" for alias in node.names)
        return frozenset(found)


def load(path: Path) -> Module:
    return Module(path, path.read_text())


MODULES = [
    load(path)
    for folder in ("spine", "domains")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not GENERATED.search(path.name)
]
BY_NAME = {module.name: module for module in MODULES}
SPINE = [m for m in MODULES if m.name.startswith("spine")]
DOMAINS = [m for m in MODULES if m.name.startswith("domains")]


def within(name: str, packages: tuple[str, ...] | frozenset[str]) -> bool:
    """Whether a module is one of these or below one of them."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def importers(library: str) -> list[str]:
    return [m.name for m in MODULES if any(within(i, (library,)) for i in m.imports)]


def ours(name: str) -> bool:
    return within(name, ("spine", "domains"))


def standard(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names


def computes(name: str) -> bool:
    """Whether a library may be used where nothing may happen but computing."""
    return standard(name) or within(name, COMPUTING)


# Who imports whom


def breaks_purity(module: Module) -> Iterator[str]:
    for name in sorted(module.imports):
        if ours(name):
            if name != "spine" and name not in PURE:
                yield f"{module.name} imports {name}"
        elif name.partition(".")[0] in IMPURE_MODULES or not computes(name):
            yield f"{module.name} imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and IMPURE_CALLS.match(ast.unparse(node.func)):
            yield f"{module.name} calls {ast.unparse(node.func)}"


def test_pure_modules_import_only_the_pure_and_ask_neither_clock_nor_chance() -> None:
    assert BY_NAME.keys() >= PURE
    assert [rule for name in sorted(PURE) for rule in breaks_purity(BY_NAME[name])] == []


def breaks_domain(module: Module) -> Iterator[str]:
    own = ".".join(module.name.split(".")[:2])
    for name in sorted(module.imports):
        allowed = name == "spine" or name in PURE or within(name, (own, *COMPUTING))
        if not allowed and (ours(name) or not standard(name)):
            yield f"{module.name} imports {name}"
        if name.partition(".")[0] in IMPURE_MODULES:
            yield f"{module.name} imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and IMPURE_CALLS.match(ast.unparse(node.func)):
            yield f"{module.name} calls {ast.unparse(node.func)}"


def test_a_domain_imports_only_the_pure_and_itself() -> None:
    assert [rule for module in DOMAINS for rule in breaks_domain(module)] == []


def test_only_the_edge_imports_domains() -> None:
    assert [
        f"{m.name} imports {i}"
        for m in SPINE
        for i in m.imports
        if within(i, ("domains",)) and not within(m.name, EDGE)
    ] == []


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("faust", ("spine.fold",)),
        ("kafka", OF_KAFKA),
        ("aiokafka", OF_KAFKA),
        ("grpc", OF_GRPC),
        ("rocksdict", ("spine.store", "spine.rocks")),
        ("fastavro", ("spine.codec", "spine.schemas")),
    ],
)
def test_a_library_appears_only_where_it_belongs(library: str, allowed: tuple[str, ...]) -> None:
    assert [name for name in importers(library) if not within(name, allowed)] == []


def test_an_audit_can_do_without_faust_and_grpc() -> None:
    """Whatever `replay` and `schemas` pull in, directly or not, an auditor runs without Faust."""
    for start in ("spine.replay", "spine.partition", "spine.store", "spine.codec", "spine.log"):
        reached: set[str] = set()
        waiting = [start]
        while waiting:
            name = waiting.pop()
            if name in reached or name not in BY_NAME:
                continue
            reached.add(name)
            waiting += [i for i in BY_NAME[name].imports if ours(i)]
        foreign = {i for name in reached for i in BY_NAME[name].imports}
        assert not any(within(i, ("faust", "grpc", "domains")) for i in foreign), start


def test_only_settings_read_the_environment() -> None:
    readers = [
        m.name
        for m in MODULES
        for node in ast.walk(m.tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv")
    ]
    assert [name for name in readers if not within(name, ENVIRONMENT)] == []


# The house rules of Faust


def breaks_faust_rules(module: Module) -> Iterator[str]:
    """Agents one record at a time; no tables, windows, batches, exactly-once or web server."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr in (
            "Table",
            "GlobalTable",
            "SetTable",
            "SetGlobalTable",
            "take",
            "group_by",
            "tumbling",
            "hopping",
            "through",
            "ask",
        ):
            yield f"line {node.lineno}: {node.attr}"
        if not isinstance(node, ast.Call):
            continue
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        called = ast.unparse(node.func)
        if called.endswith(".agent") and given.get("concurrency") != "1":
            yield f"line {node.lineno}: an agent without concurrency=1"
        if called == "faust.App":
            wanted = {
                "processing_guarantee": "'at_least_once'",
                "web_enabled": "False",
                "topic_disable_leader": "True",
                "topic_allow_declare": "False",
            }
            for name, value in wanted.items():
                if given.get(name) != value:
                    yield f"line {node.lineno}: {name} is not {value}"
            if "consumer_group_instance_id" not in given:
                yield f"line {node.lineno}: membership is not static"
        if called.endswith("app.topic"):
            for side in ("key", "value"):
                if given.get(f"{side}_type") != "bytes":
                    yield f"line {node.lineno}: {side}s are not raw bytes"


def test_faust_is_used_as_the_house_allows() -> None:
    module = BY_NAME["spine.fold"]
    assert "app.agent(" in module.text and "faust.App(" in module.text
    assert list(breaks_faust_rules(module)) == []


# Length, docstrings


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.name)
def test_modules_and_functions_are_short(module: Module) -> None:
    assert len(module.text.splitlines()) <= MODULE_LINES_MAX
    long = [
        f"{f.name}: {length}"
        for f in functions(module.tree)
        if (length := (f.end_lineno or f.lineno) - f.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert long == []


def undocumented(node: ast.AST, name: str) -> Iterator[str]:
    """The public functions and classes below a node that say nothing of themselves."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.ClassDef) or child.name.startswith("_"):
            continue
        decorators = {ast.unparse(d) for d in child.decorator_list}
        full = f"{name}.{child.name}"
        if ast.get_docstring(child) is None and not decorators & {"overload", "override"}:
            yield full
        if isinstance(child, ast.ClassDef):
            yield from undocumented(child, full)


def test_every_module_and_everything_public_has_a_docstring() -> None:
    silent = [m.name for m in MODULES if m.text and ast.get_docstring(m.tree) is None]
    silent += [name for m in MODULES for name in undocumented(m.tree, m.name)]
    assert silent == []


def test_no_ignore_is_bare() -> None:
    bare = [m.name for m in MODULES if re.search(r"#\s*type:\s*ignore(?!\[)|#\s*noqa\s*$", m.text)]
    assert bare == []


# Reasons


# Part of the interface, so never renamed; nothing gives them yet.
RESERVED: set[Reason] = set()


def test_every_reason_is_given_somewhere() -> None:
    text = "\n".join(m.text for m in MODULES if m.name != "spine.errors")
    given = {r for r in Reason if re.search(rf"\bReason\.{r.name}\b", text)} | {Reason.BUG}
    assert set(Reason) - given == RESERVED
    assert all(r.name == r.value for r in Reason)


# What is tracked


def tracked() -> list[Path]:
    """Every file that git keeps or would keep."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


# Put together here, so that this file does not name what it looks for.
NEIGHBOURING_FOLDER = r"\.\./" + "shared"
MACHINE_PATH = re.compile(
    rf"{NEIGHBOURING_FOLDER}\b|(?<![\w.])/(?:home|Users|work|mnt)/[A-Za-z0-9_.-]+"
)
PRIVATE_KEY = re.compile("BEGIN [A-Z ]*PRIVATE" + " KEY")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_no_tracked_file_names_a_machine_or_holds_a_key() -> None:
    found = []
    for path in tracked():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for pattern in (MACHINE_PATH, PRIVATE_KEY):
            if match := pattern.search(text):
                found.append(f"{path.relative_to(ROOT)}: {match.group()}")
    assert found == []


# These rules can be broken: what breaks them is found


BAD = """
import random
import faust
from datetime import datetime
from spine.store import Store
from domains.metering import METERING

class Shown:
    def method(self): return datetime.now()

app = faust.App("x", web_enabled=True)
table = app.Table("t")
app.agent(source, concurrency=2)(fold)
app.topic("t", key_type=str)
"""


def test_the_rules_bite() -> None:
    pure = Module(ROOT / "spine" / "bad.py", BAD)
    assert len(list(breaks_purity(pure))) == 5
    domain = Module(ROOT / "domains" / "consumers" / "bad.py", BAD)
    assert len(list(breaks_domain(domain))) == 5
    assert list(undocumented(pure.tree, "bad")) == ["bad.Shown", "bad.Shown.method"]
    assert len(list(breaks_faust_rules(pure))) == 9
    assert MACHINE_PATH.search("see /home/" + "somebody/notes")
