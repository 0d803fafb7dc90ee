"""Messages of SPIFFE's and SPIRE's gRPC services."""
