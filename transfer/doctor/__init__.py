"""What this machine has, and the cure for each fault. It looks at all that the packages need, so it lies at the top."""
