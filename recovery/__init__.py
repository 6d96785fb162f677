"""What is done when nodes or disks fail, and who decides: the arbiter, failover, repair."""
