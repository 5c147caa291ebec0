"""Disks, object storage and the hub: verified copies of files."""
