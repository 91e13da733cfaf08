//! At which level the kernel has a cgroup.

use aya::programs::{TestRun as _, TestRunOptions};
use bytemuck::Zeroable as _;
use ebpf::rules::cgroup_depth;

use super::{
    Dataplane, Error,
    inspect::SkBuff,
    programs::{self, DEPTH_PROGRAM, classifier, classifier_mut},
};

/// Some kernels take none without anything behind its header of 14 octets.
const FRAME: [u8; 64] = [0; 64];

impl Dataplane {
    /// At which level below the kernel's root the cgroup with this number is; the caller must be in it or below it, or it
    /// is `None`. A path does not tell: in a cgroup namespace it begins at the namespace's own root.
    pub fn cgroup_level(&mut self, cgroup: u64) -> Result<Option<u32>, Error> {
        programs::load(&mut self.ebpf, DEPTH_PROGRAM)?;
        let [low, high] = cgroup_depth::ask(cgroup);
        let mut question = SkBuff::zeroed();
        question.cb = [low, high, 0, 0, 0];
        let options = TestRunOptions {
            data_in: Some(&FRAME),
            ctx_in: Some(bytemuck::bytes_of(&question)),
            ..TestRunOptions::default()
        };
        let answer = classifier(&self.ebpf, DEPTH_PROGRAM)?.test_run(options);
        let unloaded = classifier_mut(&mut self.ebpf, DEPTH_PROGRAM)?.unload();
        let failed = |source| Error::program(DEPTH_PROGRAM, source);
        let answer = answer.map_err(failed)?;
        unloaded.map_err(failed)?;
        Ok(u32::try_from(answer.return_value.cast_signed()).ok())
    }
}
