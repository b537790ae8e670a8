"""What a machine is and can do, whatever winfleet runs on it: GPUs, ports, processes, what Windows alone needs."""
