"""Pure decisions about identity: bytes and values in, values or named errors out."""
