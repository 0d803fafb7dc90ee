"""The kinds, their units and the selector language: what every manager shares and nobody owns."""
