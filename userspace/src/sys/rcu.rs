//! Waiting until no program reads what it found before.

use std::{io, thread, time::Duration};

/// Longer than any of our programs runs, where the kernel cannot be asked.
const PATIENCE: Duration = Duration::from_millis(100);

/// Returns when every program that was running at the time of the call has ended.
///
/// eBPF programs run inside an RCU read-side critical section, and `MEMBARRIER_CMD_GLOBAL` waits for an RCU grace
/// period (`kernel/sched/membarrier.c`, Linux 6.12) where there is more than one processor. It is refused with
/// `nohz_full`, and does nothing on a single processor: there it is waited for 100 ms, in which a program, which never
/// sleeps, has long been run to its end.
pub(crate) fn wait_for_readers() {
    let alone = thread::available_parallelism().is_ok_and(|processors| processors.get() == 1);
    if alone || membarrier().is_err() {
        thread::sleep(PATIENCE);
    }
}

fn membarrier() -> io::Result<()> {
    // SAFETY: the call takes three numbers and touches no memory of ours.
    match unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_period_ends() {
        wait_for_readers();
    }
}
