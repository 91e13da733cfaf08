//! The test bench: a node, pods and an outside, made of network namespaces and a child cgroup.
