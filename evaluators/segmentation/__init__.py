"""FCN in mmsegmentation. Only `task` and what it imports load the framework."""
