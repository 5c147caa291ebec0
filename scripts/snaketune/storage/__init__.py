"""Disks and object storage: verified copies of files."""
