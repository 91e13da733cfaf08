//! What is installed on a cluster, as a node would run it: the image, in a container made by a runtime (crun) as the DaemonSet
//! says, on a bench.

mod container;
mod guarding;
mod image;
mod runtime;
