"""What a target will never take as it is, kept for people who can change that: read, replayed or dropped by command.

A folder has NDJSON files of each lane, `<route uid>,<target>.ndjson`, and older ones with a time behind that.
"""
