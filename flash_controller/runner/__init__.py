"""The process of one attempt: one device, one image, one report."""
