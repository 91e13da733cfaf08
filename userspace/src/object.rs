//! The eBPF programs, as an ELF object inside this binary.

/// The object that `cargo xtask build-ebpf` made, aligned as its parser needs it; `None` in a build that was made
/// without it, which can be checked and documented but not run.
pub const OBJECT: Option<&[u8]> = EMBEDDED;

/// This build carries no eBPF programs.
#[derive(Debug, thiserror::Error)]
#[error("this build carries no eBPF programs: run `cargo xtask build-ebpf` and build again")]
pub struct MissingObject;

/// Returns [`OBJECT`], or an error that says how to get it.
pub fn object() -> Result<&'static [u8], MissingObject> {
    OBJECT.ok_or(MissingObject)
}

#[cfg(bpf_object)]
const EMBEDDED: Option<&[u8]> = Some(aya::include_bytes_aligned!(env!("SLUICE_BPF_OBJECT_PATH")));

#[cfg(not(bpf_object))]
const EMBEDDED: Option<&[u8]> = None;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_is_an_aligned_elf_or_says_what_to_do() {
        match object() {
            Ok(object) => {
                assert!(object.starts_with(b"\x7fELF"));
                assert!(object.as_ptr().addr().is_multiple_of(align_of::<u64>()));
            }
            Err(error) => assert!(error.to_string().contains("cargo xtask build-ebpf")),
        }
    }
}
