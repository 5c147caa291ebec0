"""What every stage is built on: atomic files, canonical JSON, digests, manifests, locks."""
