"""When checkpoints are written, how they stay whole, and what is published of the last one."""
