"""Where KubeEdge's router brings readings: HTTP, one path for each topic of each node."""
