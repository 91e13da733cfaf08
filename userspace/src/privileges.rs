//! What the agent gives up before it starts: capabilities of root that it does not need, and system calls that it never makes.

use std::collections::{BTreeMap, HashSet};

use caps::{CapSet, Capability};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// What the agent needs for as long as it runs: pods come and go. The DaemonSet grants all but the last.
pub const NEEDED: [Capability; 4] = [
    // Attaching programs to devices and cgroups, routes and rules.
    Capability::CAP_NET_ADMIN,
    // Entering pods' namespaces; programs and links by their number. It contains CAP_BPF and CAP_PERFMON.
    Capability::CAP_SYS_ADMIN,
    // /proc/PID/ns/net of processes of other users.
    Capability::CAP_SYS_PTRACE,
    // Manifests that belong to another user.
    Capability::CAP_DAC_READ_SEARCH,
];

/// What `CAP_SYS_ADMIN` and being root would permit, and no part of the agent does: to run another program, to look into a process, to
/// change what the kernel or the machine is.
const NEVER: [libc::c_long; 22] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_unshare,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
    libc::SYS_sethostname,
    libc::SYS_acct,
];

/// Why privileges could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Capabilities.
    #[error("cannot give up capabilities")]
    Capabilities(#[from] caps::errors::CapsError),
    /// The filter of system calls.
    #[error("cannot give up system calls (does the kernel have CONFIG_SECCOMP_FILTER?)")]
    Calls(#[from] seccompiler::Error),
}

/// Gives up what the agent does not need, for this thread and those that it will start, for good.
///
/// # Errors
///
/// If the kernel refuses. Some may have been given up by then.
pub fn give_up() -> Result<(), Error> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: HashSet<_> = NEEDED.into_iter().filter(|one| permitted.contains(one)).collect();
    caps::clear(None, CapSet::Inheritable)?;
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept)?;
    }
    // It also sees to it that no program that is run could have more again (no_new_privs).
    seccompiler::apply_filter(&filter()?)?;
    Ok(())
}

fn filter() -> Result<BpfProgram, seccompiler::Error> {
    let never: BTreeMap<_, _> = NEVER.into_iter().map(|call| (call, Vec::new())).collect();
    let (others, these) = (
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
    );
    let machine = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(never, others, these, machine)?.try_into()?)
}
