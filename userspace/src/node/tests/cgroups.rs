use rstest::rstest;

use super::*;

#[rstest]
#[case(
    "29 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate",
    Some("/sys/fs/cgroup")
)]
#[case(
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw",
    Some("/sys/fs/cgroup/unified")
)]
// The one that a runtime has mounted for the container, beside the node's.
#[case("9 8 0:26 /kubepods/podx/y /sys/fs/cgroup ro - cgroup2 cgroup rw", None)]
#[case("9 8 0:26 /../../.. /host/cgroup ro - cgroup2 cgroup rw", None)]
#[case("33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu", None)]
#[case("", None)]
fn only_a_mount_of_the_whole_will_do(#[case] line: &str, #[case] expected: Option<&str>) {
    assert_eq!(whole_mount(line), expected.map(PathBuf::from));
}
