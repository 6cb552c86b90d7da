"""Code that a page of the documentation hands to its readers, as they would run it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

CLIENTS = Path(__file__).parents[2] / "docs/clients.md"


def documented(title: str) -> dict[str, Any]:
    """The names that the one block of Python below that heading of docs/clients.md defines."""
    (text,) = re.findall(rf"^## {title}\n(.*?)^## ", CLIENTS.read_text(), re.M | re.S)
    (source,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    space: dict[str, Any] = {"__name__": "example"}
    exec(compile(source, str(CLIENTS), "exec"), space)
    return space
