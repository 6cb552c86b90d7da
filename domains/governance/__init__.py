"""Governance: whose signature counts, who is accredited for what, and which policy is in force."""
