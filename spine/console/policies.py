"""Commands about the policy: which version is in force, what it says, and going over to another."""

from __future__ import annotations

from typing import Annotated

import typer

from spine.console.context import OPERATOR, As, AsJson
from spine.console.output import listed
from spine.console.parties import acknowledge, client, holding
from spine.policy_data import POLICY_HASHES, bases_of

VersionNumber = Annotated[int, typer.Argument(min=1, help="Version of the policy.")]


def add_to(app: typer.Typer) -> None:
    """The commands of this module."""
    policy = typer.Typer(no_args_is_help=True, help="The versions of the policy on reads.")
    policy.command("list")(list_bases)
    policy.command("adopt")(adopt)
    app.add_typer(policy, name="policy")


def list_bases(version: VersionNumber, as_json: AsJson = False) -> None:
    """What this build holds under a version: each lawful basis with its terms and their source."""
    columns = ("basis", "roles", "purposes", "categories", "finest", "opt out", "sure", "source")
    rows = [
        (
            basis,
            " ".join(terms["roles"]),
            " ".join(terms["purposes"]),
            " ".join(terms["categories"]),
            terms.get("granularity", ""),
            terms.get("opt_out", ""),
            terms.get("sure", ""),
            terms.get("source", ""),
        )
        for basis, terms in bases_of(version).items()
    ]
    listed(f"Policy {version}", columns, rows, as_json)


def adopt(version: VersionNumber, as_: As = OPERATOR, as_json: AsJson = False) -> None:
    """Judge reads by another version from now on; what was decided before stays as it was."""
    asked = {"version": version, "data_hash": POLICY_HASHES.get(version, b"")}
    answer = client(as_).governance("AdoptPolicyVersion", **asked)
    acknowledge(answer, f"policy {version} adopted; {holding(answer)}", as_json)
