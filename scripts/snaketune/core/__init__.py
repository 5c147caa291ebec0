"""The foundation of every stage: atomic files, canonical JSON, digests, manifests, locks."""
