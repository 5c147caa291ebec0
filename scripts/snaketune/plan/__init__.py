"""Requirements of a run, before it starts: FLOPs, memory, time and money, each marked as estimated."""
