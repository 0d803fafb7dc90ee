"""How an image gets into a device: an adapter for each protocol, all behind `base.Updater`."""
