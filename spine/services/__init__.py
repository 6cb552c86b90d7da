"""The gRPC services through which the coordinators take commands."""
