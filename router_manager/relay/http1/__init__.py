"""HTTP/1.1 towards targets, as much of it as a relay needs: a tenth of the CPU of a general client for each request."""
