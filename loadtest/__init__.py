"""The load tests: a country of metering points, scenarios that load the spine with it, results."""
