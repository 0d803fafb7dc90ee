"""The workload helper: trades ServiceAccount tokens for SVIDs and hands them on over private Workload API sockets."""
