"""Plug-ins of a SPIRE server and agent: processes that SPIRE starts, which speak gRPC on a socket of their own."""
