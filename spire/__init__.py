"""Identity: who a device, a manager or a peer cluster is, and how it proves so.

`domain/` holds what is decided without a clock, a network or a source of randomness: DICE certificates, evidence, its
appraisal, and the names that are given to who passes it.
"""
