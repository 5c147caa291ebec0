"""What a run will need before it starts: operations, memory, time and money, each marked as estimated."""
