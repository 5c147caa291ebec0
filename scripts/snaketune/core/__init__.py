"""What every stage stands on: atomic files, canonical JSON, digests, manifests, locks."""
