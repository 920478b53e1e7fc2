"""What runs a model's layers and exits on a device; one file each."""
