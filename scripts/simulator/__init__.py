"""The leaf-device simulator: recorded readings, published over MQTT as a board would publish its own.

`recordings` reads what was recorded, `readings` makes payloads of it, `publisher` holds one connection to one broker,
`__main__` is the command. It stands outside of the system: brokers and topics are all that it knows of it.

A device that has an identity is a board (`factory` makes it) with a DICE engine (`dice`) that starts what its flash
holds (`identity`), attests by way of one of two `doors`, and publishes with the SVID that it got (`attested`).

A board whose firmware can be replaced (`device`) has a `flash` with two slots and an `smp` server on one of `ports`;
its images are `firmware`, made by imgtool.
"""
