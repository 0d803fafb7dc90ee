"""What is outside of the edge agent: brokers and the identity issuer."""
