"""Results in object storage: what changed is uploaded and checked, in an order that no reader can trip over."""
