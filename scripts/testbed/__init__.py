"""The testbed: real control planes and brokers as children of this process, gone with it.

`binaries` finds or builds the programs, `processes` starts and ends them, `controlplane` makes clusters of them and
`broker` an MQTT broker. Demo, benchmarks and tests all stand on these four.
"""
