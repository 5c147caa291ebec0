"""When checkpoints are written, how they are kept intact, and what is published from the last one."""
