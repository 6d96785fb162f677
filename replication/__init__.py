"""Replicas of a volume: DRBD in the kernel, and the rules of who is a member (membership)."""
