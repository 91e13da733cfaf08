//! The programs, and which belongs on which device.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::{Error, Programs, Wanted, devices::Device};
use crate::sys::bpf::{AttachType, program_number};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Program {
    Lo,
    Inbound,
    InboundIp,
    Virtual,
    VirtualIp,
}

impl Program {
    pub(super) const ALL: [Self; 5] = [
        Self::Lo,
        Self::Inbound,
        Self::InboundIp,
        Self::Virtual,
        Self::VirtualIp,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Lo => "capture_lo",
            Self::Inbound => "capture_in",
            Self::InboundIp => "capture_in_ip",
            Self::Virtual => "capture_virtual",
            Self::VirtualIp => "capture_virtual_ip",
        }
    }

    pub(super) const fn place(self) -> AttachType {
        match self {
            Self::Lo => AttachType::TcxEgress,
            Self::Inbound | Self::InboundIp | Self::Virtual | Self::VirtualIp => AttachType::TcxIngress,
        }
    }

    /// Whether it is for virtual interfaces.
    pub(super) const fn is_virtual(self) -> bool {
        match self {
            Self::Virtual | Self::VirtualIp => true,
            Self::Lo | Self::Inbound | Self::InboundIp => false,
        }
    }

    /// The one that belongs on a device.
    pub(super) fn wanted(wanted: &Wanted, device: &Device) -> Option<Self> {
        if device.loopback {
            return Some(Self::Lo);
        }
        if wanted.excluded_interfaces.contains(&device.name) {
            return None;
        }
        let (inbound, virtuals) = if device.ethernet {
            (Self::Inbound, Self::Virtual)
        } else {
            (Self::InboundIp, Self::VirtualIp)
        };
        if wanted.virtual_interfaces.contains(&device.name) {
            return Some(virtuals);
        }
        wanted.inbound.then_some(inbound)
    }
}

/// A program that can be attached.
#[derive(Debug)]
pub(super) struct Loaded {
    program: Program,
    handle: OwnedFd,
    number: u32,
}

impl Loaded {
    pub(super) fn all(programs: Programs) -> Result<[Self; 5], Error> {
        let Programs {
            capture_in,
            capture_in_ip,
            capture_virtual,
            capture_virtual_ip,
            capture_lo,
        } = programs;
        Ok([
            Self::new(Program::Lo, capture_lo)?,
            Self::new(Program::Inbound, capture_in)?,
            Self::new(Program::InboundIp, capture_in_ip)?,
            Self::new(Program::Virtual, capture_virtual)?,
            Self::new(Program::VirtualIp, capture_virtual_ip)?,
        ])
    }

    fn new(program: Program, handle: OwnedFd) -> Result<Self, Error> {
        match program_number(handle.as_fd()) {
            Ok(number) => Ok(Self {
                program,
                handle,
                number,
            }),
            Err(source) => Err(Error::Program {
                program: program.name(),
                source,
            }),
        }
    }

    pub(super) const fn program(&self) -> Program {
        self.program
    }

    /// The kernel's handle of it.
    pub(super) fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// The kernel's number for it.
    pub(super) const fn number(&self) -> u32 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::facts::IfIndex;

    #[rstest]
    #[case("lo", true, Some(Program::Lo))]
    #[case("lo", false, Some(Program::Lo))]
    #[case("eth0", true, Some(Program::Inbound))]
    #[case("eth0", false, None)]
    #[case("vm0", true, Some(Program::Virtual))]
    #[case("vm0", false, Some(Program::Virtual))]
    #[case("storage", true, None)]
    #[case("tunl0", true, Some(Program::InboundIp))]
    #[case("tunl0", false, None)]
    #[case("tunvm0", false, Some(Program::VirtualIp))]
    fn each_device_has_its_program(
        #[case] device: &str,
        #[case] inbound: bool,
        #[case] expected: Option<Program>,
    ) {
        let wanted = Wanted {
            name: "app/client".into(),
            netns: "/run/netns/x".into(),
            inbound,
            virtual_interfaces: ["vm0".into(), "tunvm0".into(), "storage".into()].into(),
            excluded_interfaces: ["storage".into(), "lo".into()].into(),
        };
        let device = Device {
            index: IfIndex(1),
            name: device.into(),
            loopback: device == "lo",
            ethernet: !device.starts_with("tun"),
        };
        assert_eq!(Program::wanted(&wanted, &device), expected);
    }
}
