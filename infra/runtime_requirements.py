"""Print the pinned, hashed requirements that a running spine needs, without those of its tests.

`requirements.lock` pins everything in one file and says in comments who asked for what. This keeps
what the `dependencies` of `pyproject.toml` lead to. Standard library only, so that it runs before
anything is installed: `python infra/runtime_requirements.py > runtime.txt`.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"[A-Za-z0-9._-]+")


def normal(name: str) -> str:
    """A package's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def blocks(lock: str) -> dict[str, str]:
    """Each pinned package and its lines."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in lock.splitlines():
        if match := NAME.match(line):
            lines = found.setdefault(normal(match[0]), [])
        lines.append(line)
    return {name: "\n".join(its) for name, its in found.items()}


def wanted_by(block: str) -> set[str]:
    """Who asked for a package, by the comment below it."""
    comment = block.partition("# via")[2]
    return {normal(match[0]) for line in comment.splitlines() if (match := NAME.search(line))}


def runtime(lock: str, project: str) -> dict[str, str]:
    """What the project's own dependencies lead to."""
    pinned = blocks(lock)
    asked = {name: wanted_by(block) for name, block in pinned.items()}
    roots = tomllib.loads(project)["project"]["dependencies"]
    kept = {normal(match[0]) for root in roots if (match := NAME.match(root))}
    while more := {name for name, by in asked.items() if by & kept} - kept:
        kept |= more
    return {name: pinned[name] for name in sorted(kept)}


if __name__ == "__main__":
    lock, project = ((ROOT / name).read_text() for name in ("requirements.lock", "pyproject.toml"))
    sys.stdout.write("\n".join(runtime(lock, project).values()) + "\n")
