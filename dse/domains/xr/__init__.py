"""XR workloads on accelerators: layer costs under a dataflow, scenarios, runtime, scores."""
