"""KubeEdge's router as a carrier of readings to the relay."""
