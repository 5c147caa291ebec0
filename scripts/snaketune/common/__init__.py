"""What every stage needs: errors, canonical JSON, atomic writing, manifests, digests and locks."""
