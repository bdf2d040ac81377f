//! Workloads and raw-socket baselines.
