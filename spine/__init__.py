"""The EnergyOS digital spine: the shared runtime that every domain of energy data stands on."""
